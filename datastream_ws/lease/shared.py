"""What the processes of a fleet share: who is there, and who holds which stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ..protocols import Lease

__all__ = ["Held", "MemberRecord", "SharedLease", "SharedStore", "SharedView"]


class Held(NamedTuple):
    """Who has taken a stream, and with which epoch."""

    token: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRecord:
    """
    The record of one process, a single write however many streams it holds.

    Attributes:
        token: ``id:term``. A process that was taken for dead comes back with another term.
        beat: Changes with each renewal.
        life: Seconds after which a beat that stands still means that the process is dead.
        limit: Most streams that it takes; ``None``: no limit.
        is_leaving: It hands over what it has.

    """

    token: str
    beat: int
    life: float
    limit: int | None = None
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class SharedView:
    """
    The content of a store at one moment.

    Attributes:
        members: By token. They were read after the holders: a holder that is not among them is
            dead for good.
        holders: By key; the same object as before as long as it has not changed.
        ages: Seconds since each member's last beat, as far as the store knows.

    """

    members: Mapping[str, MemberRecord]
    holders: Mapping[str, Held]
    ages: Mapping[str, float] = field(default_factory=dict)


class SharedStore(Protocol):
    """
    Where a fleet's processes meet. One thread calls it; every call may block, and may raise.

    Attributes:
        has_lost_data: The store is not the one that was joined: it was restarted without its data.
            Until the next :meth:`join`.

    """

    has_lost_data: bool

    def join(
        self, me: MemberRecord, replaces: str, held: Mapping[str, int]
    ) -> Collection[str] | None:
        """
        Become a member.

        Args:
            replaces: The token of this process's last term; what it held is free.
            held: Epochs by key of what this token held in a store that has lost its data.

        Returns:
            The keys of *held* that are still this token's.

        """

    def renew(self, me: MemberRecord) -> bool:
        """Write a new beat. ``False`` means that this member has been removed."""
        ...

    def look(self) -> SharedView: ...

    def take(
        self, token: str, keys: Collection[str], dead: Collection[str]
    ) -> tuple[int, Collection[str]]:
        """
        Take those of *keys* that are free, a dead member's, or this token's already.

        Args:
            dead: Tokens of holders that are no members any more.

        Returns:
            The epoch of the new tenures, above every earlier one, and the keys that were taken.

        """
        ...

    def release(self, token: str, keys: Collection[str], dead: Collection[str]) -> None:
        """Let go of those of *keys* that are this token's, or a dead member's."""

    def remove(self, member: MemberRecord) -> None:
        """Remove a member that is dead, if its beat is still this one."""

    def leave(self, token: str) -> None:
        """End the membership, and let go of all that is held."""

    def close(self) -> None:
        """Let go of the store itself."""


class SharedLease(Lease, Protocol):
    """A lease that the streams of a fleet can share."""

    def shared_store(self) -> SharedStore: ...
