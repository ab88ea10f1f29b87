"""Where the processes of a fleet meet: three keys in Redis."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from .redis_scripts import RedisScripts
from .shared import Held, MemberRecord, SharedView

__all__ = ["RedisSharedStore"]

# KEYS: the members (token → time of the beat in ms, a space, the record), the holders (key →
# epoch:token), and what else there is of the fleet: the era (names this data set; a Redis that
# was restarted without its data has none), the last epoch, a version of the holders, and until
# when nothing may be taken.
NOW = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
OWNER = """
local function owner(key)
    local held = redis.call('hget', KEYS[2], key)
    return held and string.match(held, '^%d+:(.*)$')
end
local function is_free(key, token)
    local holder = owner(key)
    return not holder or holder == token or redis.call('hexists', KEYS[1], holder) == 0
end
"""
# token, record, the token of the last term, the era that is known or '', another era, the life in
# ms, the highest epoch known, then key and epoch of all that is held in the era that is known.
# Who has known another era sees that Redis has lost it: others may hold streams in it until
# their tenures are over, and so nothing is to be taken before that.
JOIN = (
    NOW
    + """
local era = redis.call('hget', KEYS[3], 'era')
if not era then
    era = ARGV[5]
    redis.call('hset', KEYS[3], 'era', era)
end
if ARGV[3] ~= ARGV[1] then
    redis.call('hdel', KEYS[1], ARGV[3])
end
redis.call('hset', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
local kept = {era}
if ARGV[4] ~= '' and ARGV[4] ~= era then
    redis.call('hset', KEYS[3], 'closed_until', string.format('%.0f', now + ARGV[6]))
    for i = 8, #ARGV, 2 do
        if redis.call('hsetnx', KEYS[2], ARGV[i], ARGV[i + 1] .. ':' .. ARGV[1]) == 1 then
            kept[#kept + 1] = ARGV[i]
        end
    end
    redis.call('hincrby', KEYS[3], 'version', 1)
end
if tonumber(redis.call('hget', KEYS[3], 'epoch') or '0') < tonumber(ARGV[7]) then
    redis.call('hset', KEYS[3], 'epoch', ARGV[7])
end
return kept
"""
)
# token, record
RENEW = (
    NOW
    + """
local there = redis.call('hexists', KEYS[1], ARGV[1])
if there == 1 then
    redis.call('hset', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
end
return {redis.call('hget', KEYS[3], 'era') or '', there}
"""
)
# the version that is known
LOOK = (
    NOW
    + """
local version = redis.call('hget', KEYS[3], 'version') or '0'
local holders = false
if version ~= ARGV[1] then
    holders = redis.call('hgetall', KEYS[2])
end
local era = redis.call('hget', KEYS[3], 'era') or ''
return {era, string.format('%.0f', now), version, redis.call('hgetall', KEYS[1]), holders}
"""
)
# token, least epoch, keys
TAKE = (
    NOW
    + OWNER
    + """
local closed_until = tonumber(redis.call('hget', KEYS[3], 'closed_until') or '0')
if redis.call('hexists', KEYS[1], ARGV[1]) == 0 then
    return {'0'}
end
local last = tonumber(redis.call('hget', KEYS[3], 'epoch') or '0')
local epoch = string.format('%.0f', math.max(last + 1, tonumber(ARGV[2])))
local taken = {epoch}
for i = 3, #ARGV do
    local is_open = now >= closed_until or owner(ARGV[i]) == ARGV[1]
    if is_open and is_free(ARGV[i], ARGV[1]) then
        redis.call('hset', KEYS[2], ARGV[i], epoch .. ':' .. ARGV[1])
        taken[#taken + 1] = ARGV[i]
    end
end
if #taken > 1 then
    redis.call('hset', KEYS[3], 'epoch', epoch)
    redis.call('hincrby', KEYS[3], 'version', 1)
end
return taken
"""
)
# token, keys
RELEASE = (
    OWNER
    + """
for i = 2, #ARGV do
    if is_free(ARGV[i], ARGV[1]) then
        redis.call('hdel', KEYS[2], ARGV[i])
    end
end
return redis.call('hincrby', KEYS[3], 'version', 1)
"""
)
# token, what it is known to have written last
REMOVE = """
if redis.call('hget', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('hdel', KEYS[1], ARGV[1])
end
return 0
"""
# token
LEAVE = """
local holders = redis.call('hgetall', KEYS[2])
for i = 1, #holders, 2 do
    if string.match(holders[i + 1], '^%d+:(.*)$') == ARGV[1] then
        redis.call('hdel', KEYS[2], holders[i])
    end
end
redis.call('hincrby', KEYS[3], 'version', 1)
return redis.call('hdel', KEYS[1], ARGV[1])
"""


class RedisSharedStore:
    """
    A :class:`~datastream_ws.lease.shared.SharedStore` in one Redis server.

    Args:
        scripts: Where.
        name: Of the fleet.

    """

    def __init__(self, scripts: RedisScripts, name: str) -> None:
        prefix = f"datastream-ws:{{{name}}}:"  # the braces keep them on one node of a cluster
        self._scripts = scripts.on(f"{prefix}members", f"{prefix}holders", f"{prefix}fleet")
        self.has_lost_data = False
        self._era = ""  # that was joined
        self._seen = 0  # the highest epoch known
        self._version = ""
        self._holders: dict[str, Held] = {}
        self._written: dict[str, bytes] = {}  # by the members

    def join(self, me: MemberRecord, replaces: str, held: Mapping[str, int]) -> Collection[str]:
        self._scripts.connect(me.life)
        self._seen = max([self._seen, *held.values()])
        pairs = [text for key, epoch in held.items() for text in (key, epoch)]
        life = int(me.life * 1000)
        era, *kept = self._run(
            JOIN, me.token, _written(me), replaces, self._era, uuid.uuid4().hex, life, self._seen,
            *pairs,
        )  # fmt: skip
        self._era, self.has_lost_data, self._version = era, False, ""
        return kept

    def renew(self, me: MemberRecord) -> bool:
        era, is_there = self._run(RENEW, me.token, _written(me))
        self._note_era(era)
        return bool(is_there)

    def look(self) -> SharedView:
        era, now, version, members, holders = self._scripts.run(LOOK, self._version)
        self._note_era(era.decode())
        if holders is not None:
            self._holders = {key: _held(value) for key, value in _pairs(holders)}
            self._version = version
            self._seen = max([self._seen, *(held.epoch for held in self._holders.values())])
        self._written = dict(_pairs(members))
        found = {token: _record(token, written) for token, written in self._written.items()}
        ages = {token: _age(written, int(now)) for token, written in self._written.items()}
        return SharedView(found, self._holders, ages)

    def take(
        self, token: str, keys: Collection[str], dead: Collection[str]
    ) -> tuple[int, Collection[str]]:
        least = max(time.time_ns() // 1_000_000, self._seen + 1)
        epoch, *taken = self._run(TAKE, token, least, *keys)
        self._seen = max(self._seen, int(epoch))
        return int(epoch), taken

    def release(self, token: str, keys: Collection[str], dead: Collection[str]) -> None:
        self._scripts.run(RELEASE, token, *keys)

    def remove(self, member: MemberRecord) -> None:
        if member.token in self._written:
            self._scripts.run(REMOVE, member.token, self._written[member.token])

    def leave(self, token: str) -> None:
        self._scripts.run(LEAVE, token)

    def close(self) -> None:
        self._scripts.close()

    def _note_era(self, era: str) -> None:
        self.has_lost_data = era != self._era

    def _run(self, script: str, *arguments: Any) -> list[Any]:
        answer = self._scripts.run(script, *arguments)
        return [each.decode() if isinstance(each, bytes) else each for each in answer]


def _written(member: MemberRecord) -> str:
    return json.dumps([member.beat, member.life, member.limit, member.is_leaving])


def _record(token: str, written: bytes) -> MemberRecord:
    beat, life, limit, is_leaving, *_ = json.loads(written.split(b" ", 1)[1])
    return MemberRecord(token=token, beat=beat, life=life, limit=limit, is_leaving=is_leaving)


def _age(written: bytes, now: int) -> float:
    return max(0, now - int(written.split(b" ", 1)[0])) / 1000


def _held(written: bytes) -> Held:
    epoch, _, token = written.decode().partition(":")
    return Held(token, int(epoch))


def _pairs(flat: list[bytes]) -> list[tuple[str, bytes]]:
    """Return the names and values of a hash, as Redis sends it."""
    return [(name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True)]
