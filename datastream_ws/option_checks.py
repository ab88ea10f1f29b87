"""The checks of options. Each returns an error text, or ``None`` if the value is valid."""

from __future__ import annotations

import difflib
import re
import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from .codecs import Codec
from .exceptions import LONGEST_SECONDS
from .protocols import Logger

__all__ = ["check_headers", "check_subprotocols", "check_url"]


CodecName = Literal["json", "orjson", "msgspec"]

Overflow = Literal["block", "drop_oldest", "drop_newest", "disconnect"]


Check = Callable[[Any], str | None]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def seconds(value: Any) -> str | None:
    """Check for a positive number of seconds."""
    if _number(value) and 0 < value <= LONGEST_SECONDS:
        return None
    return "must be a number of seconds above 0"


def count(value: Any) -> str | None:
    """Check for a whole number of at least 1."""
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
        return f"must be one of {', '.join(map(repr, values))}{nearest(value, values)}"

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
    if callable(value):
        return None
    if not isinstance(value, list | tuple):
        return check_url(value)
    for number, url in enumerate(value):
        if wrong := check_url(url):
            return f"[{number}] {wrong}"
    return None if value else "must have at least one URL"


def check_url(value: Any) -> str | None:
    """Check the URL of a stream. The error text doesn't show it."""
    if not isinstance(value, str):
        return "must be a ws:// or wss:// URL, a list of them, or a callable returning one"
    if not value.isprintable() or " " in value:
        return "must not contain spaces or control characters"
    try:
        parts = urlsplit(value)
        port = parts.port
        (parts.hostname or "").encode("idna")  # refuses empty and long labels, as DNS does
    except ValueError:
        return "is not a URL: its host or port cannot be read"
    if parts.scheme == "ws+unix":
        return _check_unix_url(value, parts.netloc)
    if parts.scheme not in ("ws", "wss"):
        return "must start with ws:// or wss:// (or ws+unix://)"
    return _check_url_parts(value, parts.hostname, port, "@" in parts.netloc)


def _check_unix_url(value: str, netloc: str) -> str | None:
    """Check ``ws+unix:///path.sock:/resource``, where the resource is optional."""
    path, _, resource = value.partition("://")[2].partition(":")
    if netloc or not path.strip("/") or (resource and not resource.startswith("/")):
        return "must have a socket and a resource, such as ws+unix:///path/to.sock:/resource"
    return "must not contain a fragment (#…)" if "#" in value else None


def _check_url_parts(value: str, host: str | None, port: int | None, userinfo: bool) -> str | None:
    if not host:
        return "has no host"
    if port == 0:
        return "must not name port 0"
    if userinfo:
        return "must not contain a user or password. Send credentials in headers."
    if "#" in value:
        return "must not contain a fragment (#…)"
    return None


TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2


# Headers that the handshake must contain only once (RFC 6455 section 4.1), and where they're set.
SET_ELSEWHERE = {
    "connection": "the client itself",
    "sec-websocket-extensions": "the option compression",
    "sec-websocket-key": "the client itself",
    "sec-websocket-protocol": "the option subprotocols",
    "sec-websocket-version": "the client itself",
    "upgrade": "the client itself",
}


def headers_option(value: Any) -> str | None:
    return None if callable(value) else check_headers(value)


def check_headers(value: Any) -> str | None:
    """Check handshake headers. The error text shows the header's name and never its value."""
    if not isinstance(value, Mapping):
        return "must be a mapping of names to values, or a callable returning one"
    faults = (_header_fault(name, content) for name, content in value.items())
    return next(filter(None, faults), None)


def _header_fault(name: Any, content: Any) -> str | None:
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        return "contains a header name that HTTP does not allow"
    if (setter := SET_ELSEWHERE.get(name.lower())) is not None:
        return f"contains the header {name!r}, which {setter} sets"
    if not isinstance(content, str):
        kind = type(content).__name__
        return f"contains the header {name!r}, whose value must be a string, not {kind}"
    if any(c in content for c in "\r\n\0"):
        return f"contains a line break or NUL in {name!r}. Strip values that are read from a file."
    if any(ord(c) > 255 for c in content):
        return f"contains characters in {name!r} that HTTP headers cannot have"
    return None


def send_rate_option(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) == 2:
        messages, period = value
        if count(messages) is None and seconds(period) is None:
            return None
    return "must be None or (messages, seconds), such as (5, 1.0)"


def codec_option(value: Any) -> str | None:
    if isinstance(value, str):
        return one_of(*get_args(CodecName))(value)
    if isinstance(value, Codec) and not isinstance(value, type):
        return None
    names = ", ".join(map(repr, get_args(CodecName)))
    return f"must be one of {names}, or an object with decode() and encode()"


def route_option(value: Any) -> str | None:
    good = callable(value) or (isinstance(value, str) and value)
    return None if good else "must be the name of a JSON field, or a callable"


def ssl_option(value: Any) -> str | None:
    if value is None or value is True or isinstance(value, ssl_module.SSLContext):
        return None
    return "must be an ssl.SSLContext, True, or None"


def proxy_ssl_option(value: Any) -> str | None:
    good = value is None or isinstance(value, ssl_module.SSLContext)
    return None if good else "must be an ssl.SSLContext, or None"


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
    if value is None or callable(value):
        return None
    return check_subprotocols(value)


def check_subprotocols(value: Any) -> str | None:
    """Check a list of subprotocols."""
    good = isinstance(value, Sequence) and not isinstance(value, str | bytes) and value
    if good and all(isinstance(p, str) and TOKEN.fullmatch(p) for p in value):
        return None
    return "must be a list of subprotocol names, a callable returning one, or None"


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


def logger_option(value: Any) -> str | None:
    return None if isinstance(value, Logger) else "must have debug, info, warning and error"


def compression_option(value: Any) -> str | None:
    return None if value in (None, "deflate") else "must be 'deflate' or None"


def nearest(value: Any, names: Sequence[str]) -> str:
    word = value[:100].lower() if isinstance(value, str) else ""
    near = difflib.get_close_matches(word, names, n=1)
    return f". Did you mean {near[0]!r}?" if near else ""
