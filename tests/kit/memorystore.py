"""A store of a fleet in memory, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from datastream_ws.lease.shared import Held, MemberRecord, SharedView

__all__ = ["Clock", "Memory", "MemoryStore"]


class Clock:
    """A clock that stands still until a test sets ``now``."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Memory:
    """The server that all processes share. It can hang, and lose its data in a restart."""

    clock: Clock
    members: dict[str, tuple[float, MemberRecord]] = field(default_factory=dict)
    holders: dict[str, Held] = field(default_factory=dict)
    epoch: int = 0
    era: int = 0
    next_era: int = 1
    closed_until: float = 0.0
    hangs: bool = False

    def lose_data(self) -> None:
        self.members, self.holders, self.epoch, self.era = {}, {}, 0, 0
        self.closed_until = 0.0


class MemoryStore:
    """The store of one process, in a shared :class:`Memory`."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.has_lost_data = False
        self._era = 0
        self._seen = 0
        self.calls = 0

    @property
    def _there(self) -> Memory:
        self.calls += 1
        if self.memory.hangs:
            raise TimeoutError("no answer")
        return self.memory

    def join(self, me: MemberRecord, replaces: str, held: Mapping[str, int]) -> Collection[str]:
        there = self._there
        if not there.era:
            there.era, there.next_era = there.next_era, there.next_era + 1
        there.members.pop(replaces, None)
        there.members[me.token] = (there.clock(), me)
        kept = []
        if self._era and self._era != there.era:
            there.closed_until = there.clock() + me.life
            for key, epoch in held.items():
                if key not in there.holders:
                    there.holders[key] = Held(me.token, epoch)
                    kept.append(key)
        there.epoch = max([there.epoch, self._seen, *held.values()])
        there.holders = dict(there.holders)
        self._era, self.has_lost_data = there.era, False
        return kept

    def renew(self, me: MemberRecord) -> bool:
        there = self._there
        self.has_lost_data = there.era != self._era
        if me.token not in there.members:
            return False
        there.members[me.token] = (there.clock(), me)
        return True

    def look(self) -> SharedView:
        there = self._there
        self.has_lost_data = there.era != self._era
        self._seen = max(self._seen, there.epoch)
        return SharedView(
            {token: member for token, (_, member) in there.members.items()},
            there.holders,
            {token: there.clock() - at for token, (at, _) in there.members.items()},
        )

    def take(
        self, token: str, keys: Collection[str], dead: Collection[str]
    ) -> tuple[int, Collection[str]]:
        there = self._there
        if token not in there.members:
            return 0, ()
        is_open = there.clock() >= there.closed_until
        there.epoch = max(there.epoch, self._seen) + 1
        taken = []
        for key in keys:
            held = there.holders.get(key)
            is_own = held is not None and held.token == token
            if is_own or (is_open and (held is None or held.token not in there.members)):
                taken.append(key)
        there.holders = there.holders | {key: Held(token, there.epoch) for key in taken}
        return there.epoch, taken

    def release(self, token: str, keys: Collection[str], dead: Collection[str]) -> None:
        there = self._there
        there.holders = {
            key: held
            for key, held in there.holders.items()
            if key not in keys or (held.token != token and held.token in there.members)
        }

    def remove(self, member: MemberRecord) -> None:
        there = self._there
        if (found := there.members.get(member.token)) and found[1].beat == member.beat:
            del there.members[member.token]

    def leave(self, token: str) -> None:
        there = self._there
        there.members.pop(token, None)
        there.holders = {k: held for k, held in there.holders.items() if held.token != token}

    def close(self) -> None:
        pass
