"""Every option of a client: its default and its check, once, for the core and all frameworks."""

from __future__ import annotations

import logging
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from .codecs import Codec, codec_for
from .exceptions import ConfigurationError
from .handlers import Handlers
from .option_checks import (
    OVERFLOWS,
    Check,
    Logger,
    _nearest,
    a_callable,
    codec_option,
    compression_option,
    count,
    flag,
    handler_with,
    headers_option,
    lease_option,
    logger_option,
    one_of,
    optional_text,
    or_none,
    proxy_option,
    route_option,
    seconds,
    ssl_option,
    subprotocols_option,
    text,
    url_option,
)
from .redaction import HiddenHeaders, shown_url

if TYPE_CHECKING:
    from .lease import Lease
    from .messages import Message

__all__ = ["ClientOptions", "ConnectionReadyHandler", "MessageHandler"]


Url = str | Callable[[], str | Awaitable[str]]

Headers = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

# Stands for 90 % of pong_timeout, as pingPeriod does in client.go; None means: no pings.
# Known by identity, so that no number a user may give is taken for it.
OF_PONG_TIMEOUT = float("nan")


@runtime_checkable
class MessageHandler(Protocol):
    """An object that handles messages. Source: client.go, MessageHandlerFunc."""

    def handle_message(self, message: Message) -> Any: ...


@runtime_checkable
class ConnectionReadyHandler(Protocol):
    """An object told of each connection. Source: client.go, ConnectionReadyHandlerFunc."""

    def on_connection_ready(self) -> Any: ...


def handlers_option(value: Any) -> str | None:
    return None if isinstance(value, Handlers | None) else "must be a Handlers registry"


def option(default: Any, check: Check) -> Any:
    """Return a dataclass field with its check; ``factory`` defaults are made by __post_init__."""
    return field(default=default, metadata={"check": check})


def required(check: Check) -> Any:
    return field(metadata={"check": check})


@dataclass(frozen=True, repr=False, eq=False)
class ClientOptions:
    """
    All options of a client, checked; immutable, may be shared by clients and threads.

    Durations are float seconds, sizes bytes. ``None`` means "no limit" unless said otherwise.

    Raises:
        ConfigurationError: Naming the option, the value's type and the nearest valid name.

    """

    chosen: ClassVar[frozenset[str]] = frozenset()
    """Names of the options that somebody gave a value, be it the default one."""

    url: Url = required(url_option)
    _: KW_ONLY
    headers: Headers = field(default_factory=dict, metadata={"check": headers_option})
    message_handler: Any = option(None, or_none(handler_with("handle_message")))
    connection_ready_handler: Any = option(None, or_none(handler_with("on_connection_ready")))
    logger: Logger = option(logging.getLogger("datastream_ws"), logger_option)
    max_reconnect_attempts: int | None = option(10, or_none(count))
    min_reconnect_delay: float = option(1.0, seconds)
    max_reconnect_delay: float = option(30.0, seconds)
    write_timeout: float = option(10.0, seconds)
    pong_timeout: float | None = option(60.0, or_none(seconds))
    ping_interval: float | None = option(OF_PONG_TIMEOUT, or_none(seconds))

    name: str = option("default", text)
    handlers: Handlers | None = option(None, handlers_option)
    stable_after: float = option(10.0, seconds)
    fatal_delay: float | None = option(None, or_none(seconds))
    retry: Callable[[BaseException], bool | None] | None = option(None, or_none(a_callable))
    open_timeout: float | None = option(10.0, or_none(seconds))
    ready_timeout: float | None = option(30.0, or_none(seconds))
    close_timeout: float = option(10.0, seconds)
    heartbeat: Any = option(None, lambda value: None)
    heartbeat_interval: float = option(30.0, seconds)
    max_size: int | None = option(2**20, or_none(count))
    compression: str | None = option("deflate", compression_option)
    proxy: str | bool | None = option(True, proxy_option)
    ssl: ssl_module.SSLContext | bool | None = option(None, ssl_option)
    subprotocols: Sequence[str] | None = option(None, subprotocols_option)
    origin: str | None = option(None, optional_text)
    lease: str | Lease | None = option(None, lease_option)
    lease_ttl: float = option(15.0, seconds)

    inbox_size: int | None = option(1000, or_none(count))
    inbox_bytes: int | None = option(64 * 2**20, or_none(count))
    overflow: str = option("block", one_of(*OVERFLOWS))
    spool: str | None = option(None, optional_text)
    spool_bytes: int | None = option(256 * 2**20, or_none(count))
    journal: bool = option(False, flag)
    conflate: Callable[[Message], Any] | None = option(None, or_none(a_callable))
    concurrency: int = option(1, count)
    ordering_key: Callable[[Message], Any] | None = option(None, or_none(a_callable))
    handler_timeout: float | None = option(None, or_none(seconds))
    retry_message: Callable[[BaseException], bool] | None = option(None, or_none(a_callable))
    codec: str | Codec = option("json", codec_option)
    route: str | Callable[[Message], str | None] = option("type", route_option)

    if not TYPE_CHECKING:

        def __new__(cls, *args: Any, **options: Any) -> Self:
            # dataclass's own __init__ answers an unknown name with a bare TypeError.
            _refuse_unknown(cls, options)
            if not args and "url" not in options:
                raise ConfigurationError("url: is required")
            self = super().__new__(cls)
            self._set("chosen", frozenset(options))
            return self

    def __post_init__(self) -> None:
        follows = self.ping_interval is OF_PONG_TIMEOUT
        if follows:
            self._set("ping_interval", None)
        for each in fields(self):
            value = getattr(self, each.name)
            wrong = each.metadata["check"](value)
            if wrong:
                raise ConfigurationError(f"{each.name}: {wrong} (given: {type(value).__name__})")
        if follows:
            self._set("ping_interval", _ping_interval(self.pong_timeout))
        self._set("codec", codec_for(self.codec))
        if isinstance(self.headers, Mapping):
            stripped = {name: value.strip(" \t") for name, value in self.headers.items()}
            self._set("headers", HiddenHeaders(stripped))
        self._check_together()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        """Refuse what cannot work in combination."""
        if self.min_reconnect_delay > self.max_reconnect_delay:
            raise ConfigurationError("min_reconnect_delay: is above max_reconnect_delay")
        interval, patience = self.ping_interval, self.pong_timeout
        if interval is not None and patience is not None and interval >= patience:
            raise ConfigurationError(
                "ping_interval: must be below pong_timeout, else a silent peer looks dead"
            )
        if self.journal and self.spool is None:
            raise ConfigurationError("journal: needs a spool to write to")
        if self.conflate is not None and self.spool is not None:
            raise ConfigurationError("conflate: cannot be combined with a spool")
        if self.ssl is not None and isinstance(self.url, str) and self.url.startswith("ws:"):
            raise ConfigurationError("ssl: needs a wss:// URL")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], **defaults: Any) -> Self:
        """
        Build the options from settings with upper-case names, as frameworks have them.

        Args:
            mapping: For example ``{"URL": "wss://…", "PONG_TIMEOUT": 30}``.
            **defaults: Options (lower case) the mapping may override.

        """
        if not isinstance(mapping, Mapping):
            raise ConfigurationError(f"needs a mapping, not {type(mapping).__name__}")
        for key in mapping:
            if key != str(key).upper():
                raise ConfigurationError(f"{key!r}: names of settings are upper case")
        given = {key.lower(): value for key, value in mapping.items()}
        options = cls(**(defaults | given))
        options._set("chosen", frozenset(given))
        return options

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the name of every option."""
        return tuple(each.name for each in fields(cls))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with *changes*; a ping interval nobody chose follows ``pong_timeout``."""
        _refuse_unknown(type(self), changes)
        chosen = self.chosen | frozenset(changes)
        if self.ping_interval == _ping_interval(self.pong_timeout):
            changes = {"ping_interval": OF_PONG_TIMEOUT, **changes}
        copy = replace(self, **changes)
        copy._set("chosen", chosen)
        return copy

    def with_defaults(self, **defaults: Any) -> Self:
        """Return a copy in which options that nobody chose have other values than ours."""
        _refuse_unknown(type(self), defaults)
        open_ones = {name: value for name, value in defaults.items() if name not in self.chosen}
        copy = self.replace(**open_ones)
        copy._set("chosen", self.chosen)
        return copy

    def __repr__(self) -> str:
        url = shown_url(self.url) if isinstance(self.url, str) else "(callable)"
        return f"<ClientOptions {self.name}: {url}>"


def _refuse_unknown(cls: type[ClientOptions], options: Mapping[str, Any]) -> None:
    names = cls.names()
    for name, value in options.items():
        if name not in names:
            raise ConfigurationError(
                f"{name}: is no option (given: {type(value).__name__}){_nearest(name, names)}"
            )


def _ping_interval(pong_timeout: float | None) -> float:
    return 0.9 * (60.0 if pong_timeout is None else pong_timeout)
