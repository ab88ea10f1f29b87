"""
Compute how the processes of a fleet share its streams, without any I/O.

Each process computes this from its own view, which may be outdated. The result only decides which
streams a process asks for or releases. The leases decide which process owns a stream.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..lease.shared import MemberRecord

__all__ = ["Moves", "at_once", "beyond_limits", "moves", "targets"]

TOLERANCE = 0.1  # of a mean share; smaller differences do not move streams


@dataclass(frozen=True, slots=True)
class Moves:
    """
    The streams that one member should take or release.

    Attributes:
        take: Keys of free streams.
        give: Keys of its own streams.

    """

    take: tuple[str, ...] = ()
    give: tuple[str, ...] = ()


def targets(
    members: Collection[MemberRecord], loads: Mapping[str, int], keys: int
) -> dict[str, int]:
    """
    Return how many of *keys* streams each member should have.

    Shares differ by one at most, except where a limit prevents that. The larger shares go to the
    members with the most streams, so that few streams move.

    Args:
        loads: The current number of streams of each member.

    """
    found: dict[str, int] = {member.token: 0 for member in members}
    left, open_ones = keys, [member for member in members if member.room > 0]
    while open_ones:
        share = left // len(open_ones)
        full = [member for member in open_ones if member.room <= share]
        if not full:
            break
        for member in full:
            found[member.token] = int(member.room)
            left -= found[member.token]
        open_ones = [member for member in open_ones if member not in full]
    found |= _even(open_ones, loads, left)
    return found


def _even(members: Collection[MemberRecord], loads: Mapping[str, int], keys: int) -> dict[str, int]:
    """
    Return shares that differ by one at most; members with more streams get the larger ones.

    Streams beyond the larger share do not raise a member's rank. Otherwise the ranks would change
    during moves, and members would give up more streams than necessary.
    """
    share, larger = divmod(keys, max(1, len(members)))
    rank = {member.token: -min(loads.get(member.token, 0), share + 1) for member in members}
    ranked = sorted(rank, key=lambda name: (rank[name], name))
    return {name: share + (place < larger) for place, name in enumerate(ranked)}


def moves(
    me: str,
    members: Collection[MemberRecord],
    holders: Mapping[str, str | None],
    last: Mapping[str, str],
) -> Moves:
    """
    Return the streams that the member *me* should take and release.

    While shares differ by at most one stream or a tenth, no stream moves. The exceptions are
    members that exceed their limit or are leaving.

    Args:
        holders: The holder of every key of the source. ``None`` means that the key is free.
        last: The previous holder of each free key, which gets it again unless its share is full.

    """
    known = {member.token for member in members}
    loads = Counter(holder for holder in holders.values() if holder in known)
    wanted = targets(members, loads, len(holders))
    given = _gives(me, members, holders, loads, wanted)
    free = sorted(key for key, holder in holders.items() if holder is None)
    return Moves(_takes(me, members, free, loads, wanted, last), given)


def at_once(
    members: Collection[MemberRecord], holders: Mapping[str, str | None], window: int
) -> int:
    """
    Return how many streams each giving member may have in flight.

    Args:
        window: Maximum number of streams in flight to one receiving member from all members.

    """
    loads = Counter(holder for holder in holders.values() if holder is not None)
    wanted = targets(members, loads, len(holders))
    givers = sum(loads[name] > most for name, most in wanted.items())
    receivers = sum(loads[name] < most for name, most in wanted.items())
    return max(1, min(window, window * receivers // max(1, givers)))


def beyond_limits(members: Collection[MemberRecord], holders: Mapping[str, str | None]) -> int:
    """Return how many free keys no member has room for."""
    loads = Counter(holder for holder in holders.values() if holder is not None)
    room = sum(max(0.0, member.room - loads[member.token]) for member in members)
    free = sum(holder is None for holder in holders.values())
    return max(0, free - int(min(room, free)))


def _gives(
    me: str,
    members: Collection[MemberRecord],
    holders: Mapping[str, str | None],
    loads: Mapping[str, int],
    wanted: Mapping[str, int],
) -> tuple[str, ...]:
    own = next((member for member in members if member.token == me), None)
    if own is None:
        return ()
    excess = loads.get(me, 0) - wanted[me]
    if own.room >= loads.get(me, 0) and not _is_uneven(members, loads, len(holders)):
        return ()
    if not any(loads.get(name, 0) < most for name, most in wanted.items() if name != me):
        return ()  # no member would take it
    mine = sorted(key for key, holder in holders.items() if holder == me)
    return tuple(mine[len(mine) - excess :]) if excess > 0 else ()


def _is_uneven(members: Collection[MemberRecord], loads: Mapping[str, int], keys: int) -> bool:
    """Return whether a member with room has far fewer streams than another member."""
    staying = [member for member in members if not member.is_leaving]
    if not staying:
        return False
    most = max(loads.get(member.token, 0) for member in staying)
    with_room = [loads.get(m.token, 0) for m in staying if loads.get(m.token, 0) < m.room]
    least = min(with_room, default=most)
    return most - least > max(1.0, TOLERANCE * keys / len(staying))


def _takes(
    me: str,
    members: Collection[MemberRecord],
    free: list[str],
    loads: Mapping[str, int],
    wanted: Mapping[str, int],
    last: Mapping[str, str],
) -> tuple[str, ...]:
    """
    Assign each free key to its last member, or to the one with the fewest streams; return mine.
    """
    now = Counter(loads)
    taken: list[str] = []
    rest: list[str] = []
    for key in free:
        owner = last.get(key)
        if owner is not None and owner in wanted and now[owner] < wanted[owner]:
            now[owner] += 1
            taken += [key] * (owner == me)
        else:
            rest.append(key)
    rooms = {member.token: member.room for member in members}
    heap = [(now[name], name) for name, room in rooms.items() if now[name] < room]
    heapq.heapify(heap)
    for key in rest:
        if not heap:
            break
        load, name = heapq.heappop(heap)
        taken += [key] * (name == me)
        if load + 1 < rooms[name]:
            heapq.heappush(heap, (load + 1, name))
    return tuple(taken)
