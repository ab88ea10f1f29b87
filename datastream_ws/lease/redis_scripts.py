"""Runs scripts in one Redis server, within the time that a lease leaves."""

from __future__ import annotations

import re
from typing import Any

from ..exceptions import ConfigurationError, LeaseError
from ..redaction import hides_arguments, peer_text

__all__ = ["RedisScripts"]

NUMBER = re.compile(r"^Error -?\d+ ")  # of the system's, before redis-py's text


class RedisScripts:
    """
    One connection to Redis, from :meth:`connect` on; used by one thread at a time.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; never shown.
        keys: Of every script.

    Raises:
        ConfigurationError: If redis-py is not installed or cannot read the URL.

    """

    @hides_arguments
    def __init__(self, url: str, *keys: str) -> None:
        try:
            import redis
        except ImportError:
            raise ConfigurationError(
                "lease: redis-py is not installed: pip install 'datastream-ws[redis]'"
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
        keys = vars(self).get("keys", ("(not usable)",))  # in the frames of an error of its URL
        return f"<RedisScripts {peer_text(keys[0])}>"

    def on(self, *keys: str) -> RedisScripts:
        """Return another connection to the same server."""
        return RedisScripts(self._url, *keys)

    def connect(self, ttl: float) -> None:
        """Be ready to run scripts, three of which may hang within half of *ttl* seconds."""
        if self._client is not None:
            return
        redis = self._redis
        pool = redis.ConnectionPool.from_url(self._url)
        # Three that hang one after the other must fit in between a renewal and the end of the
        # tenure; what the URL says about it must not change that.
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
        """Run a script with the keys and *arguments*; raises LeaseError."""
        try:
            return self._client.eval(script, len(self.keys), *self.keys, *arguments)
        except (self._redis.RedisError, OSError) as error:
            self._client.connection_pool.disconnect()  # an answer that comes late is not the next
            raise LeaseError(f"lease: {self._said(error)}") from None

    def _said(self, error: Exception) -> str:
        """Return in words whether Redis is away or has refused; its own have a number before."""
        redis, text = self._redis, peer_text(error)
        is_away = isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)
        if is_away and not isinstance(error, redis.AuthenticationError):
            return f"Redis is unavailable ({NUMBER.sub('', text).rstrip('.')})"
        return f"unexpected response from Redis ({type(error).__name__}: {text})"

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
