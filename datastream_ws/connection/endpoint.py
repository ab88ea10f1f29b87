"""The URL, headers and subprotocols of each attempt, from the options or their callables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ..exceptions import ConfigurationError
from ..option_checks import check_headers, check_subprotocols, check_url
from ..options import ClientOptions
from ..redaction import Hidden, shown_url

__all__ = ["Call", "Endpoint", "Endpoints", "ascii_url", "escaped_path"]

Call = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a function of the user's, synchronous or not, on a thread where it may block."""

UNIX = "ws+unix://"
# The characters of a path or query (RFC 3986 section 3.3), and "%" to keep existing escapes.
ALLOWED = ":/?#[]@!$&'()*+,;=%"


class Endpoint:
    """
    The URL, headers and subprotocols of one attempt.

    URL and headers may hold secrets, so the ``repr`` shows neither a query nor a header's value.

    Args:
        url: A ``ws://``, ``wss://`` or ``ws+unix://`` URL.
        headers: Headers of the handshake request. ``None`` means none.
        subprotocols: Subprotocols to offer, in order of preference. ``None`` means none.

    """

    __slots__ = ("_url", "headers", "subprotocols")

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] | None = None,
    ) -> None:
        self._url = url
        self.headers = headers or {}
        self.subprotocols = subprotocols

    @property
    def url(self) -> str:
        """The URL to request, in ASCII. Its host is ``localhost`` over a Unix socket."""
        if self._url.startswith(UNIX):
            return ascii_url("ws://localhost/" + self._url.removeprefix(UNIX).partition(":/")[2])
        return ascii_url(self._url)

    @property
    def unix_path(self) -> str | None:
        """The path of the Unix socket. ``None`` means TCP."""
        if not self._url.startswith(UNIX):
            return None
        return unquote(self._url.removeprefix(UNIX).partition(":/")[0])

    @property
    def shown(self) -> str:
        """The URL for logs, without its query."""
        return shown_url(self._url)

    def __repr__(self) -> str:
        if not hasattr(self, "headers"):  # a debugger may ask before __init__ has ended
            return "<Endpoint>"
        return f"<Endpoint {self.shown}, headers: {', '.join(self.headers) or 'none'}>"


class Endpoints:
    """
    Makes the endpoint of each attempt of a stream.

    Args:
        options: The client's options.
        call: Calls the user's callables.

    """

    def __init__(self, options: ClientOptions, call: Call) -> None:
        self._options = options
        self._call = call
        url: Any = options.url
        self._urls: Sequence[Any] = [url] if isinstance(url, str) or callable(url) else url

    async def make(self, url_number: int) -> Endpoint:
        """
        Return the endpoint of an attempt. The user's callables are called for each.

        Args:
            url_number: Index into a list of URLs, from 0. The first follows the last.

        Raises:
            ConfigurationError: If a callable returned an invalid value. The text does not show it.
            Exception: If a callable raised it.

        """
        options = self._options
        url = await self._value("url", self._urls[url_number % len(self._urls)], check_url)
        headers = await self._value("headers", options.headers, check_headers)
        subprotocols = await self._value("subprotocols", options.subprotocols, check_subprotocols)
        return Endpoint(url.reveal(), _stripped(headers), subprotocols.reveal())

    async def _value(
        self, name: str, given: Any, check: Callable[[Any], str | None]
    ) -> Hidden[Any]:
        if not callable(given):
            return Hidden(given)
        made = Hidden(await self._call(given))
        if wrong := check(made.reveal()):
            raise ConfigurationError(f"{name}: the value that the callable returned {wrong}")
        return made


def _stripped(headers: Hidden[Mapping[str, str]]) -> Mapping[str, str]:
    return {name: value.strip(" \t") for name, value in headers.reveal().items()}


def ascii_url(url: str) -> str:
    """
    Return *url* in ASCII, with a fragment removed.

    Characters that HTTP cannot carry are percent-encoded, and an international host name is encoded
    with IDNA.
    """
    parts = urlsplit(url)
    netloc = parts.netloc
    if not netloc.isascii():
        port = "" if parts.port is None else f":{parts.port}"
        netloc = (parts.hostname or "").encode("idna").decode() + port
    query = f"?{escaped_path(parts.query)}" if parts.query else ""
    return f"{parts.scheme}://{netloc}{escaped_path(parts.path)}{query}"


def escaped_path(text: str | bytes) -> str:
    """Percent-encode in a path or query what RFC 3986 does not allow. Escapes stay as they are."""
    return quote(text, safe=ALLOWED)
