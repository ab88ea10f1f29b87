"""Store in Redis which process of a fleet runs which stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from .redis_scripts import RedisScripts
from .shared import Held, MemberRecord, SharedView

__all__ = ["RedisSharedStore"]

# KEYS of all scripts, each a hash:
# 1. the members: token → the time of the last beat in ms, a space, the record
# 2. the holders: key → epoch:token
# 3. facts about the fleet:
#    - era, which identifies the data. After a restart without data, it is missing.
#    - epoch, the last one
#    - version, which changes with the holders
#    - closed_until, the time in ms before which no stream may be taken
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
# ARGV:
# 1. the token
# 2. the record
# 3. the token of the last term
# 4. the known era, or ''
# 5. a new era, used if there is none
# 6. the life in ms
# 7. the highest known epoch
# 8. from here on, the key and the epoch of each stream that is held in the known era
#
# If the era differs from the known one, Redis has lost its data. Other processes may still hold
# streams, so no stream may be taken until their tenures have expired.
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
# ARGV: token, record
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
# ARGV: the known version. The holders are returned only if theirs differs.
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
# ARGV: token, least epoch, keys
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
# ARGV: token, keys
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
# ARGV: token, the value last read. A member that has renewed since then is alive.
REMOVE = """
if redis.call('hget', KEYS[1], ARGV[1]) == ARGV[2] then
    return redis.call('hdel', KEYS[1], ARGV[1])
end
return 0
"""
# ARGV: token
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
        scripts: A connection to the server.
        name: The name of the fleet.

    """

    def __init__(self, scripts: RedisScripts, name: str) -> None:
        prefix = f"datastream-ws:{{{name}}}:"  # a hash tag: one node of a cluster
        self._scripts = scripts.on(f"{prefix}members", f"{prefix}holders", f"{prefix}fleet")
        self.has_lost_data = False
        self._era = ""  # the joined era
        self._seen = 0  # the highest known epoch
        self._version = ""
        self._holders: dict[str, Held] = {}
        self._written: dict[str, bytes] = {}  # the members' values as last read

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
    """Return the names and values of a hash from the flat list that Redis sends."""
    return [(name.decode(), value) for name, value in zip(flat[::2], flat[1::2], strict=True)]
