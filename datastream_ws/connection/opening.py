"""The opening handshake with the library, including proxies, redirects and refusals."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import (
    InvalidHandshake,
    InvalidHeader,
    InvalidProxy,
    InvalidProxyMessage,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    ProxyError,
    SecurityError,
)
from websockets.http11 import Request
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from ..exceptions import ConfigurationError, HandshakeError, network_text
from ..options import ClientOptions
from ..version import __version__
from .answers import (
    default_ssl_context,
    quiet_logger,
    same_origin,
    status_error,
    tls_refusal,
)
from .deflate import DeflateFactory
from .dialing import connect_tcp, connect_unix
from .endpoint import Endpoint, escaped_path
from .frames import NO_LIMIT

__all__ = ["Connect", "attempt_error", "proxy_for", "request_for"]

USER_AGENT = f"datastream-ws/{__version__}"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5

# asyncio limits a TLS handshake to 60 s, unless it is told another limit. Connecting has one of its
# own, open_timeout, which may be longer.
TLS_SECONDS = 86_400.0

# OpenSSL's reasons for a response that is not TLS.
WITHOUT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})


class Connect(connect):
    """
    One attempt to connect.

    Use a new object for each attempt, because the library's object keeps the target of a redirect.

    Args:
        endpoint: The URL, headers and subprotocols of the attempt.
        options: The client's options.
        make: Makes a connection from a protocol and the library's settings.

    Attributes:
        reached: The latest connection. ``None`` means that the server or proxy is not reached yet.

    """

    def __init__(
        self, endpoint: Endpoint, options: ClientOptions, make: Callable[..., ClientConnection]
    ) -> None:
        self.reached: ClientConnection | None = None
        self._endpoint = endpoint
        self._options = options
        self._make = make
        self._redirects = 0
        secure = endpoint.url.startswith("wss:")
        extra: dict[str, Any] = {}
        if secure:
            extra = {"ssl": default_ssl_context(options), "ssl_handshake_timeout": TLS_SECONDS}
        super().__init__(
            endpoint.url,
            origin=options.origin,  # type: ignore[arg-type]  # a NewType of the library
            subprotocols=endpoint.subprotocols,  # type: ignore[arg-type]
            compression=None,  # DeflateFactory replaces the library's
            extensions=None if options.compression is None else [DeflateFactory()],
            user_agent_header=USER_AGENT,  # for a proxy; request_for() sets the server's
            proxy=options.proxy,
            # Connection applies time limits, keepalive and the close deadline instead.
            open_timeout=None,
            ping_interval=None,
            close_timeout=None,
            # zlib's limit, which sys.maxsize as "no limit" would exceed
            max_size=None if options.max_size is None else min(options.max_size, NO_LIMIT),
            max_queue=None,
            # The high mark is 1 because pause_writing() must report any unsent byte. With 0,
            # asyncio's TLS calls it although no byte is unsent.
            write_limit=(1, 0),
            logger=quiet_logger(),
            create_connection=self._made,  # type: ignore[arg-type]
            **extra,
        )

    def _made(self, *args: Any, **kwargs: Any) -> ClientConnection:
        self.reached = self._make(*args, **kwargs)
        return self.reached

    async def open_tcp_connection(self) -> ClientConnection:
        """
        Connect with Happy Eyeballs, unless a proxy is used.

        This method overrides an undocumented one of the library. If a release stops calling it, the
        library opens the TCP connection itself.
        """
        self.reached = None
        unix_path = self._endpoint.unix_path
        if unix_path is not None:
            return await self._over(connect_unix(unix_path))
        if self.proxy is True:
            self.proxy = get_proxy(self.ws_uri)
        if self.proxy is None:
            return await self._over(connect_tcp(self.ws_uri.host, self.ws_uri.port))
        return await self._through_proxy()

    async def _over(self, connecting: Any) -> ClientConnection:
        arguments = self.create_connection_kwargs
        arguments["sock"] = await connecting
        try:
            return await super().open_tcp_connection()
        except OSError as error:
            _name_tls(error)
            raise
        finally:
            del arguments["sock"]  # with one, the library refuses to follow redirects

    async def _through_proxy(self) -> ClientConnection:
        if str(self.proxy).startswith("https:"):
            arguments = self.create_connection_kwargs
            arguments["proxy_ssl_handshake_timeout"] = TLS_SECONDS
            if self._options.proxy_ssl is not None:
                arguments["proxy_ssl"] = self._options.proxy_ssl
        try:
            return await super().open_tcp_connection()
        except OSError as error:
            if self.reached is None:  # it is made once the proxy has accepted
                _name_proxy(error)
            else:
                _name_tls(error)
            raise

    def process_redirect(self, exc: Exception) -> Exception | str:
        """
        Return the target of a redirect, or the error that ends the attempt.

        Only redirects within the origin are followed, because any header may be a credential.
        """
        if not isinstance(exc, InvalidStatus) or exc.response.status_code not in REDIRECTS:
            return exc
        locations = exc.response.headers.get_all("Location")
        if len(locations) != 1:
            return exc
        try:
            # The library decodes headers as Latin-1. The bytes may be UTF-8, so escape them as
            # they were sent.
            target = urljoin(self.uri, escaped_path(locations[0].encode("latin-1")))
            target = target.partition("#")[0]  # RFC 6455 section 3 forbids a fragment
            parse_uri(target)  # otherwise the error would name the option url
        except (ValueError, InvalidURI):
            return exc
        if not same_origin(target, self.uri):
            return exc
        self._redirects += 1
        if self._redirects > MOST_REDIRECTS:
            return SecurityError(f"more than {MOST_REDIRECTS} redirects")
        return target


def request_for(protocol: ClientProtocol, endpoint: Endpoint) -> Request:
    """Return the handshake request with the endpoint's headers, which may replace ``Host``."""
    request = ClientProtocol.connect(protocol)
    if any(name.lower() == "host" for name in endpoint.headers):
        del request.headers["Host"]
    request.headers.update(endpoint.headers)
    request.headers.setdefault("User-Agent", USER_AGENT)
    return request


def proxy_for(url: str) -> str | None:
    """
    Return the URL of the proxy that the environment variables set for *url*.

    ``None`` means a direct connection. The URL may hold a password.
    """
    return get_proxy(parse_uri(url))


def _name_tls(error: OSError) -> None:
    """Replace the text of an error if it does not mention that the TLS handshake failed."""
    if isinstance(error, ssl.SSLError):
        if error.reason in WITHOUT_TLS:
            error.strerror = "the server does not use TLS on this port, which may be for ws://"
    elif isinstance(error, ConnectionError):
        error.args = ("the server ended the TLS handshake; the port may be for ws://",)
        if error.errno:
            error.strerror = error.args[0]


def _name_proxy(error: OSError) -> None:
    """Add to the text of an error that it concerns the proxy."""
    text = error.strerror or str(error) or type(error).__name__
    what = "the proxy's certificate" if isinstance(error, ssl.SSLError) else "the proxy"
    error.args = (error.errno, f"{what}: {text}")
    error.strerror = f"{what}: {text}"


def attempt_error(error: Exception, lost_with: BaseException | None) -> Exception:
    """
    Return the error to raise for a failed attempt.

    The library's text is not kept, because it may show secrets.

    Args:
        error: The library's error.
        lost_with: The error that ended the connection. ``None`` means that there is none.

    """
    if isinstance(error, InvalidURI):
        return ConfigurationError("url: is not a WebSocket URL")
    if isinstance(error, InvalidProxy):
        return ConfigurationError("proxy: is not a valid proxy URL")
    if isinstance(error, ImportError):
        return ConfigurationError(
            "proxy: a SOCKS proxy requires python-socks: pip install python-socks"
        )
    if isinstance(error, TimeoutError) and isinstance(error.__cause__, TimeoutError):
        error = error.__cause__  # the network's, whose text the library replaces
    if isinstance(error, OSError):
        return tls_refusal(error) or _in_words(error)
    if lost_with is not None and (refusal := tls_refusal(lost_with)):
        return refusal  # in TLS 1.3 the alert arrives after the client's handshake is complete
    if isinstance(error, InvalidHandshake):
        return _handshake_error(error)
    return HandshakeError("the server closed the connection during the handshake")


def _in_words(error: OSError) -> OSError:
    """Replace ``[Errno …]`` in the text of a network error by words, and return the error."""
    if not isinstance(error, ssl.SSLError) and error.strerror:
        error.args = (network_text(error),)
        del error.strerror  # otherwise str() shows it and the number instead of args
    return error


def _handshake_error(error: InvalidHandshake) -> Exception:
    if isinstance(error, InvalidStatus):
        headers = error.response.headers
        waits = headers.get_all("Retry-After")
        wait = waits[0] if len(waits) == 1 else None
        return status_error(error.response.status_code, wait, datetime.now(UTC))
    if isinstance(error, ProxyError):
        return _proxy_error(error)
    if isinstance(error, InvalidUpgrade):
        return HandshakeError("the response is not a WebSocket upgrade")
    if isinstance(error, NegotiationError | InvalidHeader):
        return HandshakeError(f"the server's handshake is invalid: {_broken(error)}", status=101)
    if isinstance(error, SecurityError) or isinstance(error.__cause__, SecurityError):
        return HandshakeError("the response to the handshake is too large")
    return HandshakeError("the response to the handshake is not valid HTTP")


def _broken(error: NegotiationError | InvalidHeader) -> str:
    """Describe an invalid handshake without the server's own text, which may be anything."""
    if isinstance(error, InvalidHeader):
        return error.name
    if "subprotocol" in str(error).partition(":")[0]:
        return "it selected a subprotocol that was not offered. Check the option subprotocols."
    return "it uses an extension that was not negotiated. Try compression=None."


def _proxy_error(error: ProxyError) -> Exception:
    if isinstance(error, InvalidProxyStatus):
        status = error.response.status_code
        cure = {
            403: ". It does not allow this host.",
            407: ". Check the user and password in proxy.",
        }
        text = f"the proxy responded with HTTP {status}{cure.get(status, '')}"
        return HandshakeError(text, status=status)
    if isinstance(error, InvalidProxyMessage):
        return HandshakeError("the proxy's response is not valid HTTP")
    why = str(error.__cause__)  # python-socks has fixed texts, which hold no secrets
    if "uthentication" in why:
        return ConfigurationError("proxy: the SOCKS proxy refused the user and password")
    return HandshakeError(f"the SOCKS proxy cannot connect: {why}")
