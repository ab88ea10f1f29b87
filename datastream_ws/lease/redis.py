"""Store a lease in Redis."""

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

# KEYS of all scripts:
# 1. the holder, a hash that expires. A released lease has an empty holder. If the key is missing,
#    its holder has died, or Redis has lost its data.
# 2. the last epoch, which never expires
# ARGV, all of them strings:
# 1. the token
# 2. the time to live in ms
# 3. the stamp
# 4. the least epoch
# 5. the sign (holder:stamp) of a holder that is known to be dead
# 6. "1" if a missing key may be taken over
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
# ARGV: token, time to live in ms, stamp, epoch of the tenure.
# If the key is missing and the epoch has not grown, Redis has lost its data. So write it again.
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
# ARGV: token.
# An empty holder that never expires allows every process to acquire the lease at once.
RELEASE = """
if redis.call('hget', KEYS[1], 'holder') == ARGV[1] then
    redis.call('hset', KEYS[1], 'holder', '')
    redis.call('persist', KEYS[1])
end
return 1
"""


class RedisLease:
    """
    A lease on one Redis server, see :class:`Lease`.

    Only a process that has just started relies on the clock of Redis. A process that has seen a
    holder waits until the lease has expired by its own clock. It therefore doesn't take over if
    Redis loses its data or its clock jumps, and the holder writes its key again.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``. It is never shown.
        name: The name of the stream. There is one lease for each name and Redis database.

    Raises:
        ConfigurationError: If redis-py is not installed or cannot read the URL.

    """

    @hides_arguments
    def __init__(self, url: str, name: str) -> None:
        # The braces are a hash tag, which keeps both keys on one node of a cluster.
        self._scripts = RedisScripts(
            url, f"datastream-ws:{{{name}}}:holder", f"datastream-ws:{{{name}}}:epoch"
        )
        self._name = name
        self._owner = (0, "")
        self._epoch = 0  # of the current tenure; 0 means none
        self._may_hold = False  # also true if Redis may have granted it without a response
        self._seen = 0  # the highest known epoch
        self._liveness = Liveness()

    def __repr__(self) -> str:
        scripts = vars(self).get("_scripts")  # missing if __init__ has failed
        return f"<RedisLease {peer_text(scripts.keys[0]) if scripts else '(not usable)'}>"

    def shared_store(self) -> SharedStore:
        """Return the store through which the processes of a fleet share its streams."""
        return RedisSharedStore(self._scripts, self._name)

    @property
    def _token(self) -> str:
        """The identifier of this owner. A forked child is a different owner."""
        if self._owner[0] != os.getpid():
            self._owner = (os.getpid(), uuid.uuid4().hex)
            self._epoch = 0
        return self._owner[1]

    def acquire(self, ttl: float) -> int | None:
        token = self._token
        if self._epoch:
            return None  # another client uses this object and holds the lease
        self._scripts.connect(ttl)
        least = max(time.time_ns() // 1_000_000, self._seen + 1)
        liveness = self._liveness
        self._may_hold = True
        granted, epoch, sign, life, left = self._scripts.run(
            ACQUIRE,
            token,
            _ms(ttl),
            _stamp(),
            least,
            liveness.dead or "",
            int(liveness.has_expired),
        )
        self._seen = max(self._seen, epoch)
        self._may_hold = bool(granted)
        if granted:
            self._epoch = epoch
            return int(epoch)
        if sign:
            liveness.observe(sign, int(life) / 1000, left / 1000)
        return None

    def renew(self, ttl: float) -> bool:
        return bool(self._scripts.run(RENEW, self._token, _ms(ttl), _stamp(), self._epoch))

    def release(self) -> None:
        self._epoch = 0
        try:
            if self._may_hold:
                self._may_hold = False
                self._scripts.run(RELEASE, self._token)
        finally:
            self._scripts.close()


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _stamp() -> int:
    """Return a value that no other renewal of this process has."""
    return time.monotonic_ns()
