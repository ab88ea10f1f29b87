"""
Decide which members are dead, and which streams this process takes or gives up.

It does no I/O. It reads this machine's clock only, to time the beats of the other members.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..lease.clock import clock
from ..lease.liveness import Liveness
from ..lease.shared import MemberRecord, SharedView
from .shares import at_once, beyond_limits, moves

__all__ = ["LocalState", "Membership", "Plan"]

IN_FLIGHT = 20  # most streams in flight to one process, from all others

# How long a released stream counts as in flight. The minimum lets its new holder connect. The
# maximum applies while no process takes it.
ARRIVAL_SECONDS = (0.25, 1.0)
PATIENCE_SECONDS = 2.0  # after this time any member may take a free stream

# The pause before streams are offered again to members that have not taken them. It doubles from
# the first value up to the second.
STUCK_SECONDS = (15.0, 300.0)


@dataclass(frozen=True, slots=True)
class LocalState:
    """
    The state of this process.

    Attributes:
        token: The token of its term.
        keys: The keys of the source.
        held: The epochs, by key, of its streams, including those in :attr:`giving`.
        giving: The keys of streams that are closing, to be handed over.
        room: How many more streams it may take now.

    """

    token: str
    keys: Collection[str]
    held: Mapping[str, int]
    giving: Collection[str] = ()
    room: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """
    The next actions of this process.

    Attributes:
        take: Keys to take.
        give: Keys of streams to close and release.
        lost: Keys of streams that it does not hold anymore.
        release: Keys that the store wrongly lists for this process, or for a dead one.
        is_settled: Whether no handover is pending, and no free stream has room in a process.
        is_done: Whether this process has nothing to hand over.
        beyond_limit: How many streams run nowhere because no process has room for them.

    """

    take: tuple[str, ...] = ()
    give: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    is_settled: bool = False
    is_done: bool = False
    beyond_limit: int = 0


class Membership:
    """
    The decisions of one member, based on its successive views of the store. Use it in one thread.

    Args:
        in_flight: Maximum number of streams in flight to one process.

    """

    def __init__(self, in_flight: int = IN_FLIGHT) -> None:
        self._in_flight = in_flight
        self._watches: dict[str, Liveness] = {}
        self._free: dict[str, float] = {}  # maps each free key to when it was first seen free
        self._offered: dict[str, float] = {}  # maps keys released for others to when
        self._stuck_with: frozenset[str] | None = None  # members that did not take what was offered
        self._stuck_until = 0.0
        self._stuck_seconds = 0.0
        self._quiet_with: tuple[object, object, object] | None = None
        self._quiet = Plan()

    def dead(self, view: SharedView, token: str) -> list[MemberRecord]:
        """Return the members whose beat has not changed for too long; *token* is this process."""
        watches = {name: self._watches.get(name) or Liveness() for name in view.members}
        watches.pop(token, None)
        self._watches = watches
        found = []
        for name, watch in watches.items():
            member = view.members[name]
            age = view.ages.get(name)
            left = None if age is None else member.life - age
            watch.observe(member.beat, member.life, left)
            if watch.has_expired:
                found.append(member)
        return found

    def offered(self, keys: Collection[str]) -> None:
        """Record that *keys* were released for other members to take."""
        self._offered.update(dict.fromkeys(keys, clock()))

    def taken(self, keys: Collection[str], view: SharedView) -> None:
        """
        Record that this process has taken *keys*.

        If it takes back a key that it offered, no other member wanted the key. In this case, it
        offers nothing for a while.
        """
        if self._offered.keys() & set(keys):
            is_again = self._stuck_with == frozenset(view.members)
            first, most = STUCK_SECONDS
            self._stuck_seconds = min(most, 2 * self._stuck_seconds) if is_again else first
            self._stuck_with = frozenset(view.members)
            self._stuck_until = clock() + self._stuck_seconds
        self._offered = {k: since for k, since in self._offered.items() if k not in keys}

    def plan(self, view: SharedView, local: LocalState) -> Plan:
        """Return the next actions, from the cache if the situation has not changed."""
        shape = (_shape(view), len(local.held))
        if self._is_as_it_was(view, local, shape):
            return self._quiet
        found = self._plan(view, local)
        has_to_do = found.take or found.give or found.lost or found.release
        is_quiet = (
            found.is_settled and found.is_done and not has_to_do and not self._is_stuck(view, local)
        )
        self._quiet_with = (view.holders, local.keys, shape) if is_quiet else None
        self._quiet = found
        return found

    def _is_as_it_was(self, view: SharedView, local: LocalState, shape: object) -> bool:
        if self._quiet_with is None:
            return False
        holders, keys, before = self._quiet_with
        return holders is view.holders and keys is local.keys and before == shape

    def _plan(self, view: SharedView, local: LocalState) -> Plan:
        holders = _holders(view, local)
        self._note_free(holders)
        members = view.members.values()
        found = moves(local.token, members, holders, _last(view))
        wanted = self._gives(found.give, local, view, holders)
        if self._is_stuck(view, local):
            wanted = []
        in_flight = len(local.giving) + self._arriving
        most = at_once(members, holders, self._in_flight) if wanted else 0
        beyond = beyond_limits(members, holders)
        lost = [k for k, epoch in local.held.items() if view.holders.get(k) != (local.token, epoch)]
        strays = _strays(view, local)
        take = self._takes(found.take, strays, local, view)
        return Plan(
            take=take,
            give=tuple(wanted[: max(0, most - in_flight)]),
            lost=tuple(lost),
            release=tuple(key for key in strays if key not in set(take)),
            is_settled=not (len(self._free) > beyond or in_flight or wanted),
            is_done=not (in_flight or wanted),
            beyond_limit=beyond,
        )

    def _note_free(self, holders: Mapping[str, str | None]) -> None:
        now = clock()
        free = {key for key, holder in holders.items() if holder is None}
        self._free = {key: self._free.get(key, now) for key in free}
        self._offered = {
            key: since
            for key, since in self._offered.items()
            if key in free or now - since < ARRIVAL_SECONDS[0]
        }

    def _is_stuck(self, view: SharedView, local: LocalState) -> bool:
        """Return whether the present members have refused what this process offered."""
        own = view.members.get(local.token)
        is_leaving = own is not None and own.is_leaving
        is_over = clock() >= self._stuck_until or self._stuck_with != frozenset(view.members)
        return not (is_over or is_leaving)

    @property
    def _arriving(self) -> int:
        now, (least, most) = clock(), ARRIVAL_SECONDS
        waits = ((now - since, key in self._free) for key, since in self._offered.items())
        return sum(waited < (most if is_free else least) for waited, is_free in waits)

    def _gives(
        self,
        excess: Collection[str],
        local: LocalState,
        view: SharedView,
        holders: dict[str, str | None],
    ) -> list[str]:
        """Return the streams to hand over, excluding those already released but not yet taken."""
        on_their_way = [key for key in self._offered if key in self._free]
        if on_their_way:
            counted = holders | dict.fromkeys(on_their_way, local.token)
            excess = moves(local.token, view.members.values(), counted, {}).give
        return [key for key in excess if key in local.held and key not in local.giving]

    def _takes(
        self,
        assigned: Collection[str],
        strays: Collection[str],
        local: LocalState,
        view: SharedView,
    ) -> tuple[str, ...]:
        """
        Return the keys to take, in this order.

        - keys that this process has taken already, although the store's response was lost
        - its share of the free keys
        - keys that have been free for too long

        """
        own = view.members.get(local.token)
        if own is None or local.room <= 0:
            return ()
        now = clock()
        unanswered = [
            key for key in strays if view.holders[key].token == local.token and key in local.keys
        ]
        first = [key for key in assigned if key not in self._offered]
        known = set(first)
        late = [
            key
            for key, since in self._free.items()
            if key not in known
            # A member waits longest for a stream that it has offered itself.
            and now - since >= PATIENCE_SECONDS * (1 + (key in self._offered))
        ]
        room = min(local.room, own.room - len(local.held))
        return tuple([*unanswered, *first, *late][: max(0, int(room))])


def _shape(view: SharedView) -> frozenset[tuple[str, int | None, bool]]:
    """Return what decides about the shares: the members, their limits and who leaves."""
    return frozenset((r.token, r.limit, r.is_leaving) for r in view.members.values())


def _holders(view: SharedView, local: LocalState) -> dict[str, str | None]:
    """
    Return the living holder of each key of the source and of keys that others hold.

    ``None`` means that a key is free.
    """
    living = {key: held.token for key, held in view.holders.items() if held.token in view.members}
    others = {key: token for key, token in living.items() if token != local.token}
    return {**others, **{key: living.get(key) for key in local.keys}}


def _last(view: SharedView) -> dict[str, str]:
    """Return, for keys of dead holders, the token of the same process's next term."""
    now = {_id(token): token for token in view.members}
    gone = {key: held.token for key, held in view.holders.items() if held.token not in view.members}
    return {key: now[_id(token)] for key, token in gone.items() if _id(token) in now}


def _strays(view: SharedView, local: LocalState) -> list[str]:
    """Return keys that the store lists although neither this process nor a member holds them."""
    return [
        key
        for key, held in view.holders.items()
        if (held.token == local.token and key not in local.held)
        or (held.token not in view.members and key not in local.keys)
    ]


def _id(token: str) -> str:
    return token.rpartition(":")[0]
