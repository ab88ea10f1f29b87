"""
The WebSocket library we stand on, behind one small protocol.

An engine opens one connection, writes frames, and hands received ones to its receiver. It
knows no states, no timers and no retry. ``websockets_engine``, ``opening`` and ``deflate`` are the
only importers of the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..events import Handshake
from .endpoint import Endpoint

__all__ = ["Ended", "Engine", "Frame", "Receiver"]

Frame = tuple[bool, bytes]
"""An outgoing message: whether it is text, and its payload (UTF-8 for text)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """
    Why a connection is over.

    Attributes:
        code, reason: Of the peer's close frame; 1006 without one.
        error: ``None`` after a close handshake that we began.
        peer_fault: The peer broke the protocol or ``max_size``.

    """

    code: int
    reason: str
    error: Exception | None
    peer_fault: bool = False


class Receiver(Protocol):
    """Who an engine reports to, always on the event loop's thread."""

    def bytes_received(self) -> None:
        """Anything at all has arrived: the peer is alive."""

    def messages_received(self, messages: list[str | bytes], size: int) -> None:
        """Whole messages, in order; *size* of their payloads in bytes."""

    def pong_received(self, payload: bytes) -> None: ...

    def writing_paused(self) -> None:
        """The transport holds unsent bytes."""

    def writing_resumed(self) -> None:
        """Everything written is with the kernel."""

    def closing(self, code: int | None, reason: str) -> None:
        """
        A close frame was received or sent: the peer must end the connection soon.

        Args:
            code, reason: Of the peer's close frame; ``None`` and nothing if ours was first.

        """

    def ended(self, ended: Ended) -> None:
        """Called once, last."""


class Engine(Protocol):
    """One connection, used once. Every method is called on the event loop's thread."""

    async def open(self, endpoint: Endpoint, receiver: Receiver) -> None:
        """
        Open the connection; cancellable at any await. No error shows what *endpoint* holds.

        Raises:
            ConfigurationError: An option cannot work.
            HandshakeError: The server, or a proxy, said no.
            OSError: The network's own errors, TLS verification included.

        """

    def write(self, frames: Sequence[Frame]) -> None: ...

    def ping(self, payload: bytes) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the receiver is told when the peer has ended the connection."""

    def abort(self) -> None:
        """End the connection now."""

    def pause(self) -> None:
        """Stop reading; may be called when paused."""

    def resume(self) -> None: ...

    @property
    def handshake(self) -> Handshake:
        """What the server answered, once :meth:`open` has returned."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes written but not yet with the kernel."""
        ...

    @property
    def written(self) -> int:
        """
        Bytes that are with the kernel, of messages, control frames and the handshake alike.

        It only ever grows, and no more once the connection is lost.
        """
        ...

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor; -1 when there is none."""
        ...
