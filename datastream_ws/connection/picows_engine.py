"""
The fast engine, over the ``picows`` library, whose frame parser is written in C.

Differences from the default one are listed in docs/engines.md.
"""

from __future__ import annotations

import asyncio
import errno
import http
import os
import re
import socket
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import quote, urljoin, urlsplit

import picows
from python_socks import ProxyError  # a dependency of picows, which raises it

from ..exceptions import HandshakeError, StreamClosedError
from ..options import ClientOptions
from ..redaction import HiddenHeaders
from ..version import __version__
from .answers import (
    MOST_FRAGMENTS,
    QuietLogger,
    closed_by_peer,
    cut_by_peer,
    default_ssl_context,
    peer_fault,
    quiet_logger,
    same_origin,
    status_error,
)
from .dialling import dialled
from .engine import Ended, Frame, Receiver
from .frames import FrameCutter, read_in_pieces
from .inflate import OFFER, Inflate, TooBig, inflate_for

__all__ = ["PicowsEngine"]

KNOWN_STATUSES = frozenset(map(int, http.HTTPStatus))
REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
NO_LIMIT = 2**62
RESERVED_CODES = frozenset({0, 1005, 1006, *range(5000, 65536)})  # picows lets a peer send them

TEXT, BINARY = picows.WSMsgType.TEXT, picows.WSMsgType.BINARY
CONTINUATION, CLOSE = picows.WSMsgType.CONTINUATION, picows.WSMsgType.CLOSE
PING, PONG = picows.WSMsgType.PING, picows.WSMsgType.PONG


class Reader(asyncio.Protocol):
    """
    Stands between the transport and picows' own protocol, with a splitter for what is received.

    picows may have read the beginning of a frame together with the handshake. So it is given
    everything until a frame has ended in bytes that came through here: those behind it are known
    then, and from the next frame on messages are taken.
    """

    def __init__(self, inner: Any, listener: Listener) -> None:
        self._inner = inner
        self._listener = listener
        self._cutter = listener.splitter
        self._ahead = 0  # bytes of the splitter's next frame that picows has seen already
        self._splits = False

    def data_received(self, data: bytes) -> None:
        self._listener.receiver.bytes_received()
        if self._splits:
            self._cutter.feed(data)
        else:
            self._follow(data)
        self._listener.hand_over()

    def _follow(self, data: bytes) -> None:
        self._listener.behind = -1
        self._give(data)
        behind = self._listener.behind
        if 0 <= behind <= len(data):
            self._splits = True
            self._ahead = behind
            self._cutter.takes = not behind and not self._listener.is_amid_message
            self._cutter.is_over = self._listener.is_ending
            self._cutter.feed(data[len(data) - behind :])

    def parse(self, data: bytes) -> None:
        """Have picows look at what the splitter does not take."""
        ahead, self._ahead = self._ahead, 0
        self._give(data[ahead:])
        self._cutter.takes = not self._listener.is_amid_message
        self._cutter.is_over |= self._listener.is_ending

    def _give(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self._listener.is_parsed:
            buffer = self._inner.get_buffer(-1)
            size = min(len(buffer), len(left))
            buffer[:size] = left[:size]
            left = left[size:]
            if self._listener.behind >= 0:
                self._listener.behind += size
            self._inner.buffer_updated(size)

    def eof_received(self) -> bool | None:
        keep_open: bool | None = self._inner.eof_received()
        return keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._listener.receiver.writing_paused()

    def resume_writing(self) -> None:
        self._listener.receiver.writing_resumed()


class Listener(picows.WSListener):
    """Turns picows' frames into messages for the receiver, where the splitter has not."""

    def __init__(self, receiver: Receiver, limit: int | None, inflate: Inflate | None) -> None:
        self.receiver = receiver
        self.splitter = FrameCutter(limit, self._parse)
        self.is_parsed = True  # what picows is given; not any more once its parser has failed
        self.behind = -1  # bytes that picows holds behind the last frame; -1: not known
        self._reader: Reader | None = None
        self._limit = limit
        self._inflate = inflate
        self._fragments: list[bytes] = []
        self._kind = TEXT
        self._deflated = False
        self._fault: StreamClosedError | None = None
        self._closing = False
        self.transport: picows.WSTransport | None = None

    def parser_failed(self) -> None:
        """
        Picows' parser has sent a close frame, and would parse the bytes that follow all the same.

        What it found whole in the same read is still on its way here, and good.
        """
        if self.transport is not None and not self.transport.is_close_frame_sent:
            self.is_parsed = False
            asyncio.get_running_loop().call_soon(self._blame, self.transport)

    def _blame(self, transport: picows.WSTransport) -> None:
        handshake: Any = transport.close_handshake
        if not self._closing:
            self._fault = peer_fault(_number(handshake.sent.code), "see RFC 6455")
            self._expect_end()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.transport = transport
        underlying = transport.underlying_transport
        # Tells us of every byte that waits.
        underlying.set_write_buffer_limits(0)
        read_in_pieces(underlying)
        self._reader = Reader(underlying.get_protocol(), self)
        underlying.set_protocol(self._reader)

    def _parse(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.parse(data)

    @property
    def is_amid_message(self) -> bool:
        return bool(self._fragments)

    @property
    def is_ending(self) -> bool:
        return self._closing or self.transport is None or self.transport.is_close_frame_sent

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if not self._closing:
            self._frame(transport, frame, frame.msg_type)
        if frame.last_in_buffer:
            self.behind = frame.tail_size
            self.hand_over()

    def hand_over(self) -> None:
        messages, size = self.splitter.handed_over()
        if messages and not self._closing:
            self.receiver.messages_received(messages, size)

    def _frame(
        self, transport: picows.WSTransport, frame: picows.WSFrame, kind: picows.WSMsgType
    ) -> None:
        if (frame.rsv1 or frame.rsv2 or frame.rsv3) and not self._may_be_deflated(frame, kind):
            self._fail(1002, "reserved bits")
        elif kind is PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind is PONG:
            self.receiver.pong_received(frame.get_payload_as_bytes())
        elif kind is CLOSE:
            self._close(transport, frame)
        else:
            self._data(frame, kind)

    def _may_be_deflated(self, frame: picows.WSFrame, kind: picows.WSMsgType) -> bool:
        """RFC 7692 section 6: the first bit, in the first frame of a message, when agreed upon."""
        first = kind is TEXT or kind is BINARY
        return first and self._inflate is not None and not (frame.rsv2 or frame.rsv3)

    def _close(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """RFC 6455 section 5.5.1: answer with the same code; the server ends the connection."""
        if frame.payload_size and _number(frame.get_close_code()) in RESERVED_CODES:
            self._fail(1002, "reserved close code")
            return
        if not transport.is_close_frame_sent:
            if frame.payload_size:
                transport.send_close(frame.get_close_code())
            else:
                transport.send(CLOSE, b"")
        self.hand_over()
        self._expect_end()

    def _data(self, frame: picows.WSFrame, kind: picows.WSMsgType) -> None:
        if (kind is CONTINUATION) is not bool(self._fragments):
            self._fail(1002, "fragments out of order")
            return
        if kind is not CONTINUATION:
            self._kind, self._deflated = kind, frame.rsv1
        self._fragments.append(frame.get_payload_as_bytes())
        if len(self._fragments) > MOST_FRAGMENTS:
            self._fail(1009, "too many fragments")
        elif self._is_too_big():
            self._fail(1009, "message too big")
        elif frame.fin:
            payload = b"".join(self._fragments)
            self._fragments.clear()
            self._message(payload)

    def _is_too_big(self) -> bool:
        if self._limit is None or len(self._fragments) == 1:
            return False
        return sum(map(len, self._fragments)) > self._limit

    def _message(self, payload: bytes) -> None:
        try:
            if self._deflated and self._inflate is not None:
                payload = self._inflate.message(payload, self._limit)
            self.splitter.messages.append(payload.decode() if self._kind is TEXT else payload)
            self.splitter.size += len(payload)
        except TooBig:
            self._fail(1009, "message too big")
        except zlib.error:
            self._fail(1002, "corrupt compression")
        except UnicodeDecodeError:
            self._fail(1007, "invalid UTF-8")

    def _fail(self, code: int, reason: str) -> None:
        """RFC 6455 section 7.1.7: fail the connection."""
        if self._closing or self.transport is None:
            return
        self.hand_over()
        self._fault = peer_fault(code, reason)
        if not self.transport.is_close_frame_sent:
            self.transport.send_close(picows.WSCloseCode(code), reason)
        self._expect_end()

    def _expect_end(self) -> None:
        if not self._closing:
            self._closing = True
            self.receiver.closing()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self.hand_over()
        self.receiver.ended(self._why(transport))

    def _why(self, transport: picows.WSTransport) -> Ended:
        if self._fault is not None:
            return Ended(self._fault.code, "", self._fault, peer_fault=True)
        handshake: Any = transport.close_handshake
        received = handshake.recv if handshake else None
        if received is None:
            return Ended(1006, "", cut_by_peer(None))
        code, reason = _number(received.code) or 1005, received.reason or ""
        began = handshake is not None and not handshake.recv_then_sent
        return Ended(code, reason, None if began else closed_by_peer(code, reason))


def _number(code: Any) -> int:
    """A close code that picows knows is an enum's, any other a number."""
    return int(getattr(code, "value", code))


class ParserEar(QuietLogger):
    """
    What picows logs to: it says nothing, and hears of the one thing that picows tells nobody else.

    An error is logged when the parser has given up; see :meth:`Listener.parser_failed`.
    """

    def __init__(self) -> None:
        super().__init__(quiet_logger().logger, {})
        self.listener: Listener | None = None

    def error(self, *args: Any, **kwargs: Any) -> None:
        if self.listener is not None:
            self.listener.parser_failed()

    exception = error


class Dialled(socket.socket):
    """A connected socket. One that was reset by now picows would dial again, and leave open."""

    def connect(self, address: object) -> NoReturn:
        self.close()
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


class PicowsEngine:
    """See :class:`datastream_ws.engines.Engine`."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._transport: picows.WSTransport
        self._sockets: list[socket.socket] = []
        self._gone: asyncio.Task[None] | None = None
        self.descriptor = -1

    async def open(self, url: str, headers: Mapping[str, str], receiver: Receiver) -> None:
        try:
            for _ in range(MOST_REDIRECTS):
                target = await self._attempt(url, headers, receiver)
                if target is None:
                    return
                url = target
            raise HandshakeError("the answer to the handshake exceeds what is safe to read")
        except BaseException:
            # picows leaves the connection of a cancelled handshake open: end it under its feet.
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            self._sockets.clear()

    async def _attempt(
        self, url: str, headers: Mapping[str, str], receiver: Receiver
    ) -> str | None:
        """Open the connection; return where it is redirected to, within the origin."""
        try:
            transport, listener = await self._connect(url, headers, receiver)
        except picows.WSInvalidStatusError as error:
            return _redirected(url, error)
        except picows.WSInvalidMessageError as error:
            raise _odd_status(error.raw_header or b"") from None
        except picows.WSInvalidUpgradeError:
            raise HandshakeError("the answer is no WebSocket upgrade") from None
        except picows.WSInvalidHeaderError as error:
            text = f"the server broke the handshake: {error.name}"
            raise HandshakeError(text, status=101) from None
        except ProxyError as error:
            raise _refused_by_proxy(error) from None
        except (picows.WSHandshakeError, picows.WSProtocolError):
            raise HandshakeError("there was no valid HTTP answer to the handshake") from None
        if listener is None:
            raise HandshakeError("the server hung up during the handshake")
        self._transport = transport
        self.descriptor = transport.underlying_transport.get_extra_info("socket").fileno()
        self._gone = asyncio.create_task(_until_gone(transport))
        return None

    async def _connect(self, url: str, headers: Mapping[str, str], receiver: Receiver) -> Any:
        options = self._options
        limit = options.max_size
        ear = ParserEar()

        def listener(request: Any, response: Any) -> Listener:
            inflate = self._check_answer(response.headers)
            ear.listener = Listener(receiver, limit, inflate)
            return ear.listener

        return await picows.ws_connect(
            listener,
            url,
            ssl_context=default_ssl_context(options) if url.startswith("wss:") else None,
            websocket_handshake_timeout=None,
            logger_name=ear,
            enable_auto_pong=False,
            max_frame_size=limit or NO_LIMIT,
            extra_headers=self._request_headers(headers),
            max_redirects=0,
            proxy=_proxy(options.proxy, url),
            socket_factory=self._dial,
            use_aiofastnet=False,
        )

    async def _dial(self, url: Any) -> socket.socket:
        """Connect, and keep hold of the socket."""
        sock = Dialled(fileno=(await dialled(url.host, url.port)).detach())
        self._sockets.append(sock)
        return sock

    def _request_headers(self, headers: Mapping[str, str]) -> HiddenHeaders:
        options = self._options
        sent = HiddenHeaders(headers)
        if "user-agent" not in map(str.lower, headers):
            sent["User-Agent"] = f"datastream-ws/{__version__}"
        if options.origin is not None:
            sent["Origin"] = options.origin
        if options.subprotocols is not None:
            sent["Sec-WebSocket-Protocol"] = ", ".join(options.subprotocols)
        if options.compression is not None:
            sent["Sec-WebSocket-Extensions"] = OFFER
        return sent

    def _check_answer(self, headers: Mapping[str, str]) -> Inflate | None:
        """Refuse what was not asked for."""
        chosen = headers.get("Sec-WebSocket-Protocol")
        answer = headers.get("Sec-WebSocket-Extensions")
        try:
            if chosen is not None and chosen not in (self._options.subprotocols or ()):
                raise ValueError
            if answer and self._options.compression is None:
                raise ValueError
            return inflate_for(answer)
        except ValueError:
            text = "the server broke the handshake: a subprotocol or extension"
            raise HandshakeError(text, status=101) from None

    def write(self, frames: Sequence[Frame]) -> None:
        transport = self._transport
        if not transport.is_close_frame_sent:
            for is_text, payload in frames:
                transport.send(TEXT if is_text else BINARY, payload)

    def ping(self, payload: bytes) -> None:
        if not self._transport.is_close_frame_sent:
            self._transport.send_ping(payload)

    def close(self, code: int, reason: str) -> None:
        if not self._transport.is_close_frame_sent:
            self._transport.send_close(picows.WSCloseCode(code), reason)

    def abort(self) -> None:
        self._transport.underlying_transport.abort()

    def pause(self) -> None:
        self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        self._transport.underlying_transport.resume_reading()

    @property
    def unsent(self) -> int:
        return self._transport.underlying_transport.get_write_buffer_size()


def _redirected(url: str, error: picows.WSInvalidStatusError) -> str:
    response = error.response
    if response is None:
        raise HandshakeError("there was no valid HTTP answer to the handshake") from None
    status, headers = response.status.value, response.headers
    if status in REDIRECTS and "Location" in headers:
        target = _target(url, headers["Location"])
        if target is not None:
            return target
    waits = headers.getall("Retry-After", [])
    wait = waits[0] if len(waits) == 1 else None
    raise status_error(status, wait, datetime.now(UTC)) from None


def _target(url: str, location: str) -> str | None:
    """Return the URL of a redirect that is followed; picows reads ASCII with surrogates."""
    quoted = quote(location.encode("ascii", "surrogateescape"), safe="%/:=&?~#+!$,;'@()*[]")
    try:
        target = urljoin(url, quoted)
    except ValueError:
        return None
    return target if same_origin(target, url) and "#" not in target else None


def _odd_status(head: bytes) -> HandshakeError:
    """Return the error of an answer that picows cannot read, be it for a status like 499 or 520."""
    status = re.match(rb"HTTP/1\.1 ([1-5]\d\d) ", head)
    if status is None or int(status[1]) in KNOWN_STATUSES:
        return HandshakeError("there was no valid HTTP answer to the handshake")
    waits = re.findall(rb"(?im)^retry-after:(.*)$", head)
    wait = waits[0].decode("latin-1") if len(waits) == 1 else None
    return status_error(int(status[1]), wait, datetime.now(UTC))


def _refused_by_proxy(error: ProxyError) -> HandshakeError:
    """picows tells the status of an HTTP proxy in its text only."""
    found = re.fullmatch(r"HTTP proxy rejected connection with status (\d{3})", str(error))
    if found is None:
        return HandshakeError("there was no valid answer of the proxy")
    return HandshakeError(f"the proxy answered HTTP {found[1]}", status=int(found[1]))


def _proxy(option: str | bool | None, url: str) -> str | None:
    """Return the proxy's URL; True: what the environment says, as the default engine does."""
    if option is not True:
        return option or None
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(f"{parts.hostname}:{parts.port}"):
        return None
    proxies = urllib.request.getproxies()
    names = ("wss", "socks", "https") if parts.scheme == "wss" else ("ws", "socks", "https", "http")
    return next((proxies[name] for name in names if name in proxies), None)


async def _until_gone(transport: picows.WSTransport) -> None:
    """Fetch what picows keeps about the end, else asyncio complains that nobody did."""
    with suppress(Exception):
        await transport.wait_disconnected()
