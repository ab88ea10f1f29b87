"""
The interface between a connection and the WebSocket library.

An engine opens one connection, writes frames and passes received messages to its receiver. It has
no states, timers or retries. Only ``websockets_engine``, ``opening`` and ``deflate`` import the
library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..events import Handshake
from .endpoint import Endpoint

__all__ = ["Ended", "Engine", "Frame", "Receiver"]

Frame = tuple[bool, bytes]
"""An outgoing message as a pair: whether it is text, and the payload (UTF-8 for text)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """
    How a connection ended.

    Attributes:
        code: Code of the server's close frame, or 1006 without one (RFC 6455 section 7.4.1).
        reason: Reason of the server's close frame, or an empty string.
        error: The error to report. ``None`` means that the client began the close handshake.
        peer_fault: Whether the server broke the protocol or exceeded ``max_size``.

    """

    code: int
    reason: str
    error: Exception | None
    peer_fault: bool = False


class Receiver(Protocol):
    """The callbacks of an engine, all called on the event loop's thread."""

    def bytes_received(self) -> None:
        """Record that any bytes have arrived, which proves that the server is alive."""

    def messages_received(self, messages: list[str | bytes], size: int) -> None:
        """Take whole messages, in order. *size* is that of their payloads in bytes."""

    def pong_received(self, payload: bytes) -> None: ...

    def writing_paused(self) -> None:
        """Stop writing, because the transport holds unsent bytes."""

    def writing_resumed(self) -> None:
        """Continue to write, because the kernel has everything written so far."""

    def closing(self, code: int | None, reason: str) -> None:
        """
        Begin the close deadline, because a close frame was received or sent.

        Args:
            code: Code of the server's close frame. ``None`` means that the client sent its own
                first.
            reason: Reason of the server's close frame, or an empty string.

        """

    def ended(self, ended: Ended) -> None:
        """Record the end of the connection. It is called once, after all other callbacks."""


class Engine(Protocol):
    """One connection, used once. Every method is called on the event loop's thread."""

    async def open(self, endpoint: Endpoint, receiver: Receiver) -> None:
        """
        Open the connection.

        The call can be canceled at any await. No error shows a secret of *endpoint*.

        Raises:
            ConfigurationError: If an option cannot work.
            HandshakeError: If the server or a proxy refused the connection.
            OSError: If the network failed, or TLS verification.

        """

    def write(self, frames: Sequence[Frame]) -> None: ...

    def ping(self, payload: bytes) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Send a close frame. The receiver's :meth:`Receiver.ended` follows."""

    def abort(self) -> None:
        """End the connection without a close handshake."""

    def pause(self) -> None:
        """Stop reading. Calling it again has no effect."""

    def resume(self) -> None: ...

    @property
    def handshake(self) -> Handshake:
        """The server's handshake response. It exists once :meth:`open` has returned."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel does not have yet."""
        ...

    @property
    def written(self) -> int:
        """
        Bytes that the kernel has, including control frames and the handshake.

        The number never decreases. It stays the same once the connection is lost.
        """
        ...

    @property
    def descriptor(self) -> int:
        """The socket's file descriptor, or -1 if there is none."""
        ...
