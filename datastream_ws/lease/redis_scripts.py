"""Run scripts in one Redis server within the time that a lease allows."""

from __future__ import annotations

import re
from typing import Any

from ..exceptions import ConfigurationError, LeaseError
from ..redaction import hides_arguments, peer_text

__all__ = ["RedisScripts"]

NUMBER = re.compile(r"^Error -?\d+ ")  # redis-py puts the errno before its text


class RedisScripts:
    """
    A connection to Redis, opened by :meth:`connect`. One thread at a time may use it.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``. It is never shown.
        keys: The keys that every script receives.

    Raises:
        ConfigurationError: If redis-py is not installed or cannot read the URL.

    """

    @hides_arguments
    def __init__(self, url: str, *keys: str) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigurationError(
                "lease: redis-py is not installed. Run: pip install 'datastream-ws[redis]'"
            ) from None
        self._redis = redis
        try:
            redis.ConnectionPool.from_url(url)
        except Exception:
            raise ConfigurationError("lease: is not a valid Redis URL") from None
        self._url = url
        self.keys = keys
        self._client: Any = None

    def __repr__(self) -> str:
        keys = vars(self).get("keys", ("(not usable)",))  # missing if __init__ has failed
        return f"<RedisScripts {peer_text(keys[0])}>"

    def on(self, *keys: str) -> RedisScripts:
        """Return another connection to the same server, for scripts on other keys."""
        return RedisScripts(self._url, *keys)

    def connect(self, ttl: float) -> None:
        """Create the client. Its time limit lets three calls hang within half of *ttl* seconds."""
        if self._client is not None:
            return
        redis = self._redis
        pool = redis.ConnectionPool.from_url(self._url)
        # Three hanging calls must fit between a renewal and the end of the tenure. Parameters of
        # the URL must not change that.
        limit = min(5.0, ttl / 6)
        pool.connection_kwargs |= {
            "socket_timeout": limit,
            "socket_connect_timeout": limit,
            "retry": redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            "health_check_interval": 0,
            "decode_responses": False,
        }
        self._client = redis.Redis.from_pool(pool)

    def run(self, script: str, *arguments: Any) -> Any:
        """
        Run a script with the keys and *arguments*, and return its result. Blocks the thread.

        Raises:
            LeaseError: If Redis is unreachable, or refuses the script.

        """
        try:
            return self._client.eval(script, len(self.keys), *self.keys, *arguments)
        except (self._redis.RedisError, OSError) as error:
            # a late response must not answer the next call
            self._client.connection_pool.disconnect()
            raise LeaseError(f"lease: {self._said(error)}") from None

    def _said(self, error: Exception) -> str:
        """Return whether Redis is unavailable or has refused the script, without the errno."""
        redis, text = self._redis, peer_text(error)
        is_away = isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)
        if is_away and not isinstance(error, redis.AuthenticationError):
            return f"Redis is unavailable ({NUMBER.sub('', text).rstrip('.')})"
        return f"unexpected response from Redis ({type(error).__name__}: {text})"

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
