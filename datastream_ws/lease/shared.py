"""Define the store through which the processes of a fleet share its streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..protocols import Lease

__all__ = ["Held", "MemberRecord", "SharedLease", "SharedStore", "SharedView"]


class Held(NamedTuple):
    """
    The holder of a stream.

    Attributes:
        token: The token of the process.
        epoch: The epoch of its tenure.

    """

    token: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """
    The record of one process. To renew it, one write is enough for any number of streams.

    Attributes:
        token: ``id:term``. A process that others have removed joins again with a new term.
        beat: A number that changes with each renewal.
        life: Seconds without a new beat after which the process is dead.
        limit: The largest number of streams that it takes. ``None`` means no limit.
        is_leaving: Whether the process is ending, so that others take its streams.

    """

    token: str
    beat: int
    life: float
    limit: int | None = None
    is_leaving: bool = False

    @property
    def room(self) -> float:
        """How many streams it takes in all."""
        if self.is_leaving:
            return 0
        return float("inf") if self.limit is None else self.limit


@dataclass(frozen=True, slots=True)
class SharedView:
    """
    The content of a store at one moment.

    Attributes:
        members: The members by token. They were read after the holders, so a holder that is not a
            member has died.
        holders: The holders by key. The object is the same as before unless a holder has changed.
        ages: Seconds since each member's last beat, according to the store.

    """

    members: Mapping[str, MemberRecord]
    holders: Mapping[str, Held]
    ages: Mapping[str, float] = field(default_factory=dict)


class SharedStore(Protocol):
    """
    The store through which a fleet's processes share streams.

    One thread calls its methods. Every method may block, and may raise any exception.

    Attributes:
        has_lost_data: Whether the store was restarted without its data since :meth:`join`. The next
            :meth:`join` resets it.

    """

    has_lost_data: bool

    def join(
        self, me: MemberRecord, replaces: str, held: Mapping[str, int]
    ) -> Collection[str] | None:
        """
        Write this process's record, and become a member.

        Args:
            me: The record.
            replaces: The token of this process's last term. Streams held with it become free.
            held: The epochs, by key, of the streams that this token held in a store that has lost
                its data.

        Returns:
            The keys of *held* that this token still holds.

        """

    def renew(self, me: MemberRecord) -> bool:
        """Write a new beat. False means that this member has been removed."""
        ...

    def look(self) -> SharedView:
        """Read the members and the holders."""
        ...

    def take(
        self, token: str, keys: Collection[str], dead: Collection[str]
    ) -> tuple[int, Collection[str]]:
        """
        Take those of *keys* that are free, or held by a dead member or by this token.

        Args:
            token: The token of this process.
            keys: The keys of the streams to take.
            dead: The tokens of holders that are no longer members.

        Returns:
            The epoch of the new tenures, which exceeds every earlier one, and the taken keys.

        """
        ...

    def release(self, token: str, keys: Collection[str], dead: Collection[str]) -> None:
        """Release those of *keys* that this token or a dead member holds."""

    def remove(self, member: MemberRecord) -> None:
        """Remove a dead member, unless it has written a new beat."""

    def leave(self, token: str) -> None:
        """End the membership, and release all streams of *token*."""

    def close(self) -> None:
        """Close the connection to the store."""


class SharedLease(Lease, Protocol):
    """A lease whose store a fleet can also use to share its streams."""

    def shared_store(self) -> SharedStore: ...
