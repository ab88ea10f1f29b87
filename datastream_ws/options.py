"""Every option of a client: its default and its check, once, for the core and all frameworks."""

from __future__ import annotations

import difflib
import logging
import re
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable
from urllib.parse import urlsplit

from .codecs import Codec, codec_for
from .exceptions import ConfigurationError
from .handlers import Handlers
from .redaction import HiddenHeaders, shown_url

if TYPE_CHECKING:
    from .lease import Lease
    from .messages import Message

__all__ = [
    "ClientOptions",
    "ConnectionReadyHandler",
    "Logger",
    "MessageHandler",
    "check_headers",
    "check_url",
]

Url = str | Callable[[], str | Awaitable[str]]
Headers = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

# Stands for 90 % of pong_timeout, as pingPeriod does in client.go; None means: no pings.
# Known by identity, so that no number a user may give is taken for it.
OF_PONG_TIMEOUT = float("nan")
LONGEST = 1e9  # seconds; what locks and selectors can wait for ends at about 9e9
CODECS = ("json", "orjson", "msgspec")
OVERFLOWS = ("block", "drop_oldest", "drop_newest", "disconnect")


@runtime_checkable
class Logger(Protocol):
    """What a logger must take; ``logging.Logger`` does."""

    def debug(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def info(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def warning(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def error(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...


@runtime_checkable
class MessageHandler(Protocol):
    """An object that handles messages. Source: client.go, MessageHandlerFunc."""

    def handle_message(self, message: Message) -> Any: ...


@runtime_checkable
class ConnectionReadyHandler(Protocol):
    """An object told of each connection. Source: client.go, ConnectionReadyHandlerFunc."""

    def on_connection_ready(self) -> Any: ...


# --- checks: each returns what is wrong, or None --------------------------------------------

Check = Callable[[Any], str | None]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def seconds(value: Any) -> str | None:
    """A positive number of seconds, at most 30 years."""
    if _number(value) and 0 < value <= LONGEST:
        return None
    return "must be a number of seconds above 0"


def count(value: Any) -> str | None:
    """A whole number from 1."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return None
    return "must be a whole number of at least 1"


def or_none(check: Check) -> Check:
    def checked(value: Any) -> str | None:
        wrong = None if value is None else check(value)
        return wrong and f"{wrong}, or None"

    return checked


def one_of(*values: str) -> Check:
    def checked(value: Any) -> str | None:
        if isinstance(value, str) and value in values:
            return None
        return f"must be one of {', '.join(map(repr, values))}{_nearest(value, values)}"

    return checked


def a_callable(value: Any) -> str | None:
    return None if callable(value) else "must be callable"


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be True or False"


def text(value: Any) -> str | None:
    good = isinstance(value, str) and value and value.isprintable()
    return None if good else "must be a printable, non-empty string"


def handler_with(method: str) -> Check:
    def checked(value: Any) -> str | None:
        if callable(value) or callable(getattr(value, method, None)):
            return None
        return f"must be callable, or have a method {method}()"

    return checked


def url_option(value: Any) -> str | None:
    return None if callable(value) else check_url(value)


def check_url(value: Any) -> str | None:
    """Say what is wrong with a stream URL, without showing it; ``None``: nothing."""
    if not isinstance(value, str):
        return "must be a ws:// or wss:// URL, or a callable returning one"
    if not value.isprintable() or " " in value:
        return "must not contain spaces or control characters"
    try:
        parts = urlsplit(value)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as the look-up does: no label empty or too long
    except ValueError:
        return "is not a URL: its host or port cannot be read"
    if parts.scheme not in ("ws", "wss"):
        return "must start with ws:// or wss://"
    return _check_url_parts(value, parts.hostname, port, "@" in parts.netloc)


def _check_url_parts(value: str, host: str | None, port: int | None, userinfo: bool) -> str | None:
    if not host:
        return "names no host"
    if port == 0:
        return "must not name port 0"
    if userinfo:
        return "must not contain a user or password; send credentials in headers"
    if "#" in value:
        return "must not contain a fragment (#…)"
    return None


TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2


def headers_option(value: Any) -> str | None:
    return None if callable(value) else check_headers(value)


def check_headers(value: Any) -> str | None:
    """Say what is wrong with handshake headers, naming the header but never its value."""
    if not isinstance(value, Mapping):
        return "must be a mapping of names to values, or a callable returning one"
    for name, content in value.items():
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            return "has a header name that HTTP does not allow"
        if not isinstance(content, str):
            return f"[{name!r}] must be a string, not {type(content).__name__}"
        if any(c in content for c in "\r\n\0"):
            return f"[{name!r}] contains a line break or NUL (a secret read with its newline?)"
        if any(ord(c) > 255 for c in content):
            return f"[{name!r}] has characters that HTTP headers cannot carry"
    return None


def codec_option(value: Any) -> str | None:
    if isinstance(value, str):
        return one_of(*CODECS)(value)
    if isinstance(value, Codec) and not isinstance(value, type):
        return None
    return f"must be one of {', '.join(map(repr, CODECS))}, or an object with decode() and encode()"


def route_option(value: Any) -> str | None:
    good = callable(value) or (isinstance(value, str) and value)
    return None if good else "must be the name of a JSON field, or a callable"


def ssl_option(value: Any) -> str | None:
    if value is None or value is True or isinstance(value, ssl_module.SSLContext):
        return None
    return "must be an ssl.SSLContext, True, or None"


def proxy_option(value: Any) -> str | None:
    if value is None or value is True:
        return None
    if not isinstance(value, str):
        return "must be a proxy URL, True (from the environment), or None"
    try:
        parts = urlsplit(value)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if good and parts.scheme in ("http", "https", "socks4", "socks4a", "socks5", "socks5h"):
        return None
    return "must be an http, https or socks proxy URL with a host"


def subprotocols_option(value: Any) -> str | None:
    if value is None:
        return None
    good = isinstance(value, Sequence) and not isinstance(value, str | bytes) and value
    if good and all(isinstance(p, str) and TOKEN.fullmatch(p) for p in value):
        return None
    return "must be a list of subprotocol names, or None"


STORES = ("redis://", "rediss://", "unix://")


def lease_option(value: Any) -> str | None:
    if isinstance(value, str):
        good = value.startswith(STORES)
    else:
        verbs = (getattr(value, verb, None) for verb in ("acquire", "renew", "release"))
        good = value is None or all(map(callable, verbs))
    if good:
        return None
    return "must be a redis:// URL, or an object with acquire(), renew() and release()"


def handlers_option(value: Any) -> str | None:
    return None if isinstance(value, Handlers | None) else "must be a Handlers registry"


def logger_option(value: Any) -> str | None:
    return None if isinstance(value, Logger) else "must have debug, info, warning and error"


def compression_option(value: Any) -> str | None:
    return None if value in (None, "deflate") else "must be 'deflate' or None"


def optional_text(value: Any) -> str | None:
    return or_none(text)(value)


def option(default: Any, check: Check) -> Any:
    """Return a dataclass field with its check; ``factory`` defaults are made by __post_init__."""
    return field(default=default, metadata={"check": check})


def required(check: Check) -> Any:
    return field(metadata={"check": check})


# --- the options -----------------------------------------------------------------------------


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
    engine: str = option("websockets", one_of("websockets", "picows"))
    loop: str = option("asyncio", one_of("asyncio", "uvloop"))
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
        for name in ("engine", "loop"):
            _check_installed(name, getattr(self, name))
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


def _check_installed(option: str, package: str) -> None:
    if find_spec(package) is None:
        raise ConfigurationError(
            f"{option}: {package} is not installed: pip install 'datastream-ws[fast]'"
        )


def _ping_interval(pong_timeout: float | None) -> float:
    return 0.9 * (60.0 if pong_timeout is None else pong_timeout)


def _nearest(value: Any, names: Sequence[str]) -> str:
    word = value[:100].lower() if isinstance(value, str) else ""
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
