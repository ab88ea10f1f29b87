"""Detect that a lease's holder has died, by this machine's clock alone."""

from __future__ import annotations

from .clock import clock

__all__ = ["Liveness"]


class Liveness:
    """
    Observes a sign that a living holder changes with every renewal.

    If the sign does not change during the holder's time to live, its tenure has expired. Jumps of
    other machines' clocks do not matter. The methods aren't thread-safe.
    """

    def __init__(self) -> None:
        self._sign: object = None
        self._until = float("-inf")

    def observe(self, sign: object, ttl: float, left: float | None = None) -> None:
        """
        Record the current *sign* of a holder whose time to live is *ttl* seconds.

        Args:
            left: Seconds left according to the store. Used for the first sign only, which may be
                old. ``None`` means unknown.

        """
        if sign == self._sign:
            return
        if self._sign is None and left is not None:
            ttl = min(ttl, left)
        self._sign, self._until = sign, clock() + ttl

    @property
    def has_expired(self) -> bool:
        """Whether the observed tenure has expired, or none was observed."""
        return clock() >= self._until

    @property
    def dead(self) -> object:
        """The sign of a holder whose tenure has expired. ``None`` means that there is none."""
        return self._sign if self.has_expired else None
