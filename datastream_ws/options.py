"""The default and the check of every option, for the clients and all frameworks."""

from __future__ import annotations

import copy
import logging
import ssl as ssl_module
import weakref
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Self,
    TypeVar,
    get_args,
)

from .codecs import Codec, codec_for
from .exceptions import ConfigurationError
from .handlers import DECORATORS, Handlers
from .messages import DEFAULT_ROUTE, Message
from .option_checks import (
    Check,
    CodecName,
    Overflow,
    a_callable,
    codec_option,
    compression_option,
    count,
    flag,
    handler_with,
    headers_option,
    lease_option,
    logger_option,
    nearest,
    one_of,
    or_none,
    proxy_option,
    proxy_ssl_option,
    route_option,
    seconds,
    send_rate_option,
    ssl_option,
    subprotocols_option,
    text,
    url_option,
)
from .option_types import (
    ConnectionReadyHandler,
    Headers,
    MessageHandler,
    Options,
    StreamOptions,
    Subprotocols,
    Url,
)
from .protocols import Lease, Logger
from .redaction import HiddenHeaders, hides_arguments, peer_text, shown_urls

__all__ = ["ClientOptions", "ConnectionReadyHandler", "MessageHandler", "Options", "StreamOptions"]

SomeOptions = TypeVar("SomeOptions", bound="ClientOptions")


# The default of ping_interval is 90 % of pong_timeout (source: pingPeriod in client.go). This
# placeholder is compared by identity, so it never equals a number of the user.
OF_PONG_TIMEOUT = float("nan")


def handlers_option(value: Any) -> str | None:
    return None if isinstance(value, Handlers | None) else "must be a Handlers registry"


def option(default: Any, check: Check) -> Any:
    """Return a dataclass field with a default and a check."""
    return field(default=default, metadata={"check": check})


# Slots take 0.4 KiB. A dict of more than 30 attributes shares no keys, and takes 1.6 KiB.
@dataclass(frozen=True, repr=False, eq=False, slots=True, weakref_slot=True)
class ClientOptions:
    """
    All options of a client. The object is immutable, so clients and threads can share it.

    Durations are in seconds, and sizes are in bytes. The module ``datastream_ws.option_types``
    describes each option.

    Args:
        url: The URL, a list of URLs, or a callable that returns one.
        **options: All other options, as keyword arguments.

    Raises:
        ConfigurationError: If an option is unknown or invalid. The text names the option, the type
            of the value and the closest valid name.

    """

    chosen: frozenset[str] = field(init=False)
    """The names of the options that were set, even if the value is the default."""

    url: Url = field(metadata={"check": url_option})
    _: KW_ONLY
    headers: Headers = field(default_factory=dict, metadata={"check": headers_option})
    message_handler: MessageHandler | Callable[[Message], object] | None = option(
        None, or_none(handler_with("handle_message"))
    )
    connection_ready_handler: ConnectionReadyHandler | Callable[[], object] | None = option(
        None, or_none(handler_with("on_connection_ready"))
    )
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
    idle_timeout: float | None = option(None, or_none(seconds))
    send_rate: tuple[int, float] | None = option(None, send_rate_option)
    heartbeat: Any = option(None, lambda value: None)
    heartbeat_interval: float = option(30.0, seconds)
    max_size: int | None = option(2**20, or_none(count))
    compression: Literal["deflate"] | None = option("deflate", compression_option)
    proxy: str | Literal[True] | None = option(True, proxy_option)
    proxy_ssl: ssl_module.SSLContext | None = option(None, proxy_ssl_option)
    ssl: ssl_module.SSLContext | Literal[True] | None = option(None, ssl_option)
    subprotocols: Subprotocols | None = option(None, subprotocols_option)
    origin: str | None = option(None, or_none(text))
    lease: str | Lease | None = option(None, lease_option)
    lease_ttl: float = option(15.0, seconds)

    inbox_size: int | None = option(1000, or_none(count))
    inbox_bytes: int | None = option(64 * 2**20, or_none(count))
    overflow: Overflow = option("block", one_of(*get_args(Overflow)))
    spool: str | None = option(None, or_none(text))
    spool_bytes: int | None = option(256 * 2**20, or_none(count))
    journal: bool = option(False, flag)
    conflate: Callable[[Message], object] | None = option(None, or_none(a_callable))
    concurrency: int = option(1, count)
    ordering_key: Callable[[Message], object] | None = option(None, or_none(a_callable))
    handler_timeout: float | None = option(None, or_none(seconds))
    retry_message: Callable[[BaseException], bool] | None = option(None, or_none(a_callable))
    codec: CodecName | Codec = option("json", codec_option)
    route: str | Callable[[Message], str | int | None] = option(DEFAULT_ROUTE, route_option)

    # A weak reference to the options of which this is a copy. dataclasses.replace() passes it.
    _changed: Any = field(default=None, repr=False)

    if not TYPE_CHECKING:

        @hides_arguments
        def __new__(cls, *args: Any, **options: Any) -> Self:
            if isinstance(options.get("_changed"), weakref.ref):
                return object.__new__(cls)  # super() means the class without slots
            # Checked here, because the dataclass's __init__ raises TypeError for an unknown name.
            _refuse_unknown(cls, options)
            if not args and "url" not in options:
                raise ConfigurationError("url: is required")
            self = object.__new__(cls)
            self._set("chosen", frozenset(options))
            return self

    def __post_init__(self) -> None:
        original = None if self._changed is None else self._changed()
        if original is not None:
            self._take_choices_of(original)
        follows = self.ping_interval is OF_PONG_TIMEOUT
        if follows:
            self._set("ping_interval", None)
        for each in fields(self):
            check = each.metadata.get("check")
            value = getattr(self, each.name)
            if wrong := check and check(value):
                raise ConfigurationError(f"{each.name}: {wrong} (given: {type(value).__name__})")
        if follows:
            self._set("ping_interval", _ping_interval(self.pong_timeout))
        self._keep_plain()
        self._check_together()

    def _take_choices_of(self, original: ClientOptions) -> None:
        """Copy the set of chosen options, and add those whose value has changed."""
        names = self.names()
        changed = {name for name in names if getattr(self, name) is not getattr(original, name)}
        self._set("chosen", original.chosen | changed)
        followed = original.ping_interval == _ping_interval(original.pong_timeout)
        if followed and "ping_interval" not in changed:
            self._set("ping_interval", OF_PONG_TIMEOUT)

    def _keep_plain(self) -> None:
        """Copy values that the caller could change later, and convert others to one form."""
        self._set("codec", codec_for(self.codec))
        if isinstance(self.headers, Mapping):
            stripped = {name: value.strip(" \t") for name, value in self.headers.items()}
            self._set("headers", HiddenHeaders(stripped))
        for name in ("url", "subprotocols"):
            if isinstance(value := getattr(self, name), list):
                self._set(name, list(value))
        if self.send_rate is not None:
            self._set("send_rate", tuple(self.send_rate))
        self._set("_changed", weakref.ref(self))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        """Raise ConfigurationError for options that exclude or require each other."""
        if self.min_reconnect_delay > self.max_reconnect_delay:
            raise ConfigurationError("min_reconnect_delay: must not be above max_reconnect_delay")
        interval, patience = self.ping_interval, self.pong_timeout
        if interval is not None and patience is not None and interval >= patience:
            raise ConfigurationError(
                "ping_interval: must be below pong_timeout, otherwise a quiet server looks dead"
            )
        if self.journal and self.spool is None:
            raise ConfigurationError("journal: requires the option spool")
        if self.conflate is not None and self.spool is not None:
            raise ConfigurationError("conflate: cannot be combined with a spool")
        if self.ssl is not None and not callable(self.url):
            urls = (self.url,) if isinstance(self.url, str) else self.url
            if not any(url.lower().startswith("wss:") for url in urls):
                raise ConfigurationError("ssl: requires a wss:// URL")

    @classmethod
    @hides_arguments
    def from_mapping(cls, mapping: Mapping[str, Any], **defaults: Any) -> Self:
        """
        Build the options from settings with upper-case names, as frameworks have them.

        Args:
            mapping: For example ``{"URL": "wss://…", "PONG_TIMEOUT": 30}``.
            **defaults: Options in lower case, which *mapping* overrides.

        Raises:
            ConfigurationError: If an option is unknown or invalid.

        """
        if not isinstance(mapping, Mapping):
            raise ConfigurationError(f"must be a mapping, not {type(mapping).__name__}")
        for key in mapping:
            if key != str(key).upper():
                raise ConfigurationError(f"{key!r}: must be in upper case")
        given = {key.lower(): value for key, value in mapping.items()}
        options = cls(**(defaults | given))
        options._set("chosen", frozenset(given))
        return options

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the name of every option."""
        return tuple(each.name for each in fields(cls) if "check" in each.metadata)

    @hides_arguments
    def replace(self, **changes: Any) -> Self:
        """
        Return a copy with other values for some options.

        If ``ping_interval`` wasn't set, it follows ``pong_timeout``.

        Raises:
            ConfigurationError: If an option is unknown or invalid.

        """
        _refuse_unknown(type(self), changes)
        changed = replace(self, **changes)
        changed._set("chosen", self.chosen | frozenset(changes))
        return changed

    @hides_arguments
    def with_defaults(self, **defaults: Any) -> Self:
        """Return a copy with other defaults for the options that weren't set."""
        _refuse_unknown(type(self), defaults)
        open_ones = {name: value for name, value in defaults.items() if name not in self.chosen}
        changed = self.replace(**open_ones)
        changed._set("chosen", self.chosen)
        return changed

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._state())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy containers, and share other objects such as loggers, TLS contexts and functions."""
        data = (dict, list, tuple)
        return _restored(
            type(self),
            {
                name: copy.deepcopy(value, memo) if isinstance(value, data) else value
                for name, value in self._state().items()
            },
        )

    def _state(self) -> dict[str, Any]:
        names = (each.name for each in fields(self) if each.name != "_changed")
        return {name: getattr(self, name) for name in names}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.names())

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        url = getattr(self, "url", ())  # not set if __init__ failed
        name: Any = getattr(self, "name", "default")
        name = name if isinstance(name, str) else "(unreadable name)"
        return f"<ClientOptions {peer_text(name)}: {shown_urls(url)}>"


setattr(ClientOptions, "__init__", hides_arguments(ClientOptions.__init__))  # noqa: B010


def _restored(cls: type[SomeOptions], state: dict[str, Any]) -> SomeOptions:
    """Return unpickled options, without checking them again."""
    restored = object.__new__(cls)
    for name, value in state.items():
        restored._set(name, value)
    restored._set("_changed", weakref.ref(restored))
    return restored


# Names in websocket-client and websockets that difflib can't match, and the options to suggest.
ELSEWHERE = {
    "additional_headers": "headers",
    "cookie": "headers",
    "extra_headers": "headers",
    "http_proxy_host": "proxy",
    "max_queue": "inbox_size",
    "on_close": "@client.on_disconnect",
    "on_data": "@client.on_message",
    "on_open": "@client.on_ready",
    "on_reconnect": "@client.on_ready",
    "ping_timeout": "pong_timeout",
    "reconnect": "min_reconnect_delay",
    "sslopt": "ssl",
    "timeout": "open_timeout",
    "user_agent_header": "headers",
    **{name: f"@client.{name}" for name in DECORATORS},
}


def _refuse_unknown(cls: type[ClientOptions], options: Mapping[str, Any]) -> None:
    names = cls.names()
    for name, value in options.items():
        if name not in names:
            meant = ELSEWHERE.get(name)
            hint = f". Did you mean {meant!r}?" if meant else nearest(name, names)
            raise ConfigurationError(
                f"{name}: is not an option (given: {type(value).__name__}){hint}"
            )


def _ping_interval(pong_timeout: float | None) -> float:
    return 0.9 * (60.0 if pong_timeout is None else pong_timeout)
