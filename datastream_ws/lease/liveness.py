"""How those who stand by know that a holder is gone: by this machine's clock alone."""

from __future__ import annotations

from .clock import clock

__all__ = ["Liveness"]


class Liveness:
    """
    Looks at a sign that a living holder changes with every renewal.

    Whoever sees it stand still for the time to live knows that the tenure is over, however the
    clocks of the store and of other machines jump.
    """

    def __init__(self) -> None:
        self._sign: object = None
        self._until = float("-inf")

    def look(self, sign: object, ttl: float, left: float | None = None) -> None:
        """
        Note the *sign* that is there now, of a holder with a time to live of *ttl* seconds.

        Args:
            left: How much of it is left, as far as the store knows; believed of the first sign
                only, which may be an old one.

        """
        if sign == self._sign:
            return
        if self._sign is None and left is not None:
            ttl = min(ttl, left)
        self._sign, self._until = sign, clock() + ttl

    @property
    def is_over(self) -> bool:
        """Whether nobody seen here can be within a tenure any more."""
        return clock() >= self._until

    @property
    def dead(self) -> object:
        """The sign of a holder whose tenure is over; ``None``: there is none."""
        return self._sign if self.is_over else None
