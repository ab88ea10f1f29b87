"""A lease in Redis."""

from __future__ import annotations

import os
import time
import uuid

from ..redaction import hides_arguments, peer_text
from .liveness import Liveness
from .redis_scripts import RedisScripts
from .redis_shared import RedisSharedStore
from .shared import SharedStore

__all__ = ["RedisLease"]

# KEYS: the holder (a hash that expires), the last epoch (stays). Arguments are strings. A holder
# that has let go is the empty one; one whose key is gone has died, or Redis has lost it.
# token, ttl in ms, stamp, least epoch, a sign (holder:stamp) that is known to be a dead one's, "1"
# if a key that is gone may be taken over
ACQUIRE = """
local found = redis.call('hmget', KEYS[1], 'holder', 'stamp', 'ttl')
local holder, stamp, ttl = found[1], found[2], found[3]
local epoch = tonumber(redis.call('get', KEYS[2]) or '0')
if not holder then
    if ARGV[6] ~= '1' then
        return {0, epoch, '', '0', 0}
    end
elseif holder ~= '' and holder ~= ARGV[1] then
    local sign = holder .. ':' .. stamp
    if sign ~= ARGV[5] then
        return {0, epoch, sign, ttl, redis.call('pttl', KEYS[1])}
    end
end
epoch = math.max(epoch + 1, tonumber(ARGV[4]))
redis.call('hset', KEYS[1], 'holder', ARGV[1], 'ttl', ARGV[2], 'stamp', ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[2])
redis.call('set', KEYS[2], string.format('%.0f', epoch))
return {1, epoch, '', '0', 0}
"""
# token, ttl in ms, stamp, epoch of the tenure. A key that is gone while nobody has come since was
# lost by Redis, not by us: put it back.
RENEW = """
local holder = redis.call('hget', KEYS[1], 'holder')
local epoch = tonumber(redis.call('get', KEYS[2]) or '0')
if holder ~= ARGV[1] and (holder or epoch > tonumber(ARGV[4])) then
    return 0
end
redis.call('hset', KEYS[1], 'holder', ARGV[1], 'ttl', ARGV[2], 'stamp', ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[2])
if epoch < tonumber(ARGV[4]) then
    redis.call('set', KEYS[2], ARGV[4])
end
return 1
"""
RELEASE = """
if redis.call('hget', KEYS[1], 'holder') == ARGV[1] then
    redis.call('hset', KEYS[1], 'holder', '')
    redis.call('persist', KEYS[1])
end
return 1
"""


class RedisLease:
    """
    A lease in one Redis server, see :class:`Lease`.

    Redis' clock decides only for a process that has just started. A process that has seen a holder
    waits until the lease has expired by its own clock. So a Redis that lost its data, or whose
    clock jumps, causes no second owner. The holder writes its key again.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``. It is never shown.
        name: The name of the stream. There is one lease for each name and Redis database.

    Raises:
        ConfigurationError: If redis-py is not installed or cannot read the URL.

    """

    @hides_arguments
    def __init__(self, url: str, name: str) -> None:
        # The braces keep both keys on one node of a cluster.
        self._scripts = RedisScripts(
            url, f"datastream-ws:{{{name}}}:holder", f"datastream-ws:{{{name}}}:epoch"
        )
        self._name = name
        self._owner = (0, "")
        self._epoch = 0  # of our tenure; 0: none
        self._seen = 0  # the highest epoch known
        self._liveness = Liveness()

    def __repr__(self) -> str:
        scripts = vars(self).get("_scripts")  # not there in the frames of an error of its URL
        return f"<RedisLease {peer_text(scripts.keys[0]) if scripts else '(not usable)'}>"

    def shared_store(self) -> SharedStore:
        """Return where the processes of a fleet of this name meet."""
        return RedisSharedStore(self._scripts, self._name)

    @property
    def _token(self) -> str:
        """Names this owner; a forked child is another one."""
        if self._owner[0] != os.getpid():
            self._owner = (os.getpid(), uuid.uuid4().hex)
            self._epoch = 0
        return self._owner[1]

    def acquire(self, ttl: float) -> int | None:
        token = self._token
        if self._epoch:
            return None  # another client was given the same object
        self._scripts.connect(ttl)
        least = max(time.time_ns() // 1_000_000, self._seen + 1)
        liveness = self._liveness
        granted, epoch, sign, life, left = self._scripts.run(
            ACQUIRE, token, _ms(ttl), _stamp(), least, liveness.dead or "", int(liveness.is_over)
        )
        self._seen = max(self._seen, epoch)
        if granted:
            self._epoch = epoch
            return int(epoch)
        if sign:
            liveness.look(sign, int(life) / 1000, left / 1000)
        return None

    def renew(self, ttl: float) -> bool:
        return bool(self._scripts.run(RENEW, self._token, _ms(ttl), _stamp(), self._epoch))

    def release(self) -> None:
        held, self._epoch = self._epoch, 0
        try:
            if held:
                self._scripts.run(RELEASE, self._token)
        finally:
            self._scripts.close()


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _stamp() -> int:
    """Return what no other renewal of this process has."""
    return time.monotonic_ns()
