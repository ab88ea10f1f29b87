"""Received messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from sys import getsizeof
from typing import Any, Final

from .base_errors import DecodeError, NotConnectedError
from .codecs import Codec, field_finder, shown_failure
from .redaction import peer_text

__all__ = ["MESSAGE_BYTES", "Message", "Origin", "memory_bytes", "messages_of", "payload_bytes"]

MESSAGE_BYTES = 200  # memory that a message takes besides its payload


_UNSET: Final[Any] = object()


DEFAULT_ROUTE = "type"


class Origin:
    """
    The attributes that all messages of one connection share.

    Args:
        stream: The name of the stream.
        connection: The number of the connection, from 1. It's 0 for a message without one.
        epoch: A number that rises with each start of the stream, across processes.
        codec: The codec that decodes the payload.
        route: The JSON field that holds the route, or a callable that finds it.
        send: A function that queues an object on that connection. ``None`` if there is none.
        key: The key of a fleet's stream. ``None`` without a fleet.

    """

    __slots__ = (
        *("_finder", "codec", "connection", "decode", "epoch", "key", "route", "send", "stream"),
    )

    def __init__(
        self,
        stream: str,
        connection: int,
        epoch: int,
        codec: Codec,
        route: str | Callable[[Message], str | int | None],
        send: Callable[[Any], None] | None = None,
        key: Any = None,
    ) -> None:
        self.key = key
        self.stream = stream
        self.connection = connection
        self.epoch = epoch
        self.codec = codec
        self.decode = codec.decode
        self.route = route
        self.send = send
        self._finder = _UNSET

    def __reduce__(self) -> tuple[Any, ...]:
        """
        Leave out *send* and a callable ``route``, which other processes can't call.

        Each pickled message has its route instead.
        """
        route = DEFAULT_ROUTE if callable(self.route) else self.route
        return Origin, (
            *(self.stream, self.connection, self.epoch, self.codec, route),
            *(None, self.key),
        )

    @property
    def finder(self) -> Callable[[str | bytes], Any] | None:
        """The function that finds the route without decoding the whole payload, or ``None``."""
        if self._finder is _UNSET:
            route = self.route
            self._finder = None if callable(route) else field_finder(self.codec, route)
        finder: Callable[[str | bytes], Any] | None = self._finder
        return finder


class Message:
    """
    A received message. It's immutable, and you can read it from any thread and pickle it.

    ``client.last_message`` and the message of a handler may be two objects. They are equal if they
    are the same message.

    Attributes:
        data: The payload, a str for a text frame or bytes for a binary frame.
        seq: The number of the message since ``start()``, from 1.
        received_at: The UNIX time at which it was received.

    """

    __slots__ = ("_json", "_route", "data", "origin", "received_at", "seq")

    def __init__(self, data: str | bytes, origin: Origin, seq: int, received_at: float) -> None:
        self.data = data
        self.origin = origin
        self.seq = seq
        self.received_at = received_at
        self._json = _UNSET
        self._route = _UNSET

    @property
    def is_text(self) -> bool:
        """Whether it came in a text frame."""
        return isinstance(self.data, str)

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return self.origin.stream

    @property
    def key(self) -> Any:
        """The key of a fleet's stream, as its source returned it. ``None`` without a fleet."""
        return self.origin.key

    @property
    def connection(self) -> int:
        """The number of the connection it came over, from 1."""
        return self.origin.connection

    @property
    def epoch(self) -> int:
        """A number that rises with each start of the stream, across processes."""
        return self.origin.epoch

    def json(self) -> Any:
        """
        Return the decoded payload. Every call returns the same object.

        Raises:
            DecodeError: If the codec can't decode the payload.

        """
        if self._json is _UNSET:
            try:
                self._json = self.origin.decode(self.data)
            except Exception as error:
                # Not chained, because the codec's error may hold the payload (JSONDecodeError.doc).
                raise undecodable(error, self.data) from None
        return self._json

    def reply(self, obj: Any) -> None:
        """
        Queue *obj* on the connection that this message came over.

        It's thread-safe and never blocks. It doesn't wait for ``on_connect`` hooks, so a server
        that asks a question before the login gets its reply.

        Args:
            obj: A str becomes a text frame, and bytes become a binary frame. The codec encodes
                any other object.

        Raises:
            EncodeError, TypeError: If the codec can't encode *obj*.
            NotConnectedError: If that connection has ended. Also if the message was pickled, or
                made by ``deliver``.
            SendTimeoutError: If the queue holds more than 16 MiB.

        """
        if self.origin.send is None:
            raise NotConnectedError(
                f"stream {peer_text(self.stream)}: this message has no connection in this process. "
                "Use client.send() instead."
            )
        self.origin.send(obj)

    @property
    def route(self) -> str | int | None:
        """The name or number that selects the handlers. ``None`` if the message has none."""
        route: str | int | None = self._route
        return self.decoded_route() if route is _UNSET else route

    def find_route(self) -> str | int | None:
        """Return :attr:`route`, if possible without decoding the whole payload."""
        find = self.origin.finder
        if self._route is _UNSET and self._json is _UNSET and find is not None:
            try:
                found = find(self.data)
            except Exception:
                return self.route
            self._route = _as_route(found)
        return self.route

    def decoded_route(self) -> str | int | None:
        """Return :attr:`route`, faster than the property does if the route is not known yet."""
        route: str | int | None = self._route
        if route is not _UNSET:
            return route
        field = self.origin.route
        if callable(field):
            route = field(self)
        else:
            try:
                obj = self.json()
            except DecodeError:
                obj = None
            route = obj.get(field) if isinstance(obj, dict) else None
            if type(route) is not str:  # a str is the usual, fast case
                route = _as_route(route)
        self._route = route
        return route

    def __reduce__(self) -> tuple[Any, ...]:
        route = self._route
        if route is _UNSET and callable(self.origin.route):
            route = self.route
        kept = () if route is _UNSET else (route,)
        return _restored, (self.data, self.origin, self.seq, self.received_at, *kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return self.stream, self.epoch, self.seq, self.connection, self.data

    def __repr__(self) -> str:
        return f"<Message {peer_text(self.stream)} #{self.seq}, {_size(self.data)}>"


def messages_of(
    payloads: Sequence[str | bytes], origin: Origin, seq: int, received_at: float
) -> list[Message]:
    """Return a message for each payload, numbered from *seq*, 20 % faster than one by one."""
    messages = list(map(object.__new__, repeat(Message, len(payloads))))
    for message, payload in zip(messages, payloads, strict=True):
        message.data = payload
        message.origin = origin
        message.seq = seq
        message.received_at = received_at
        message._json = message._route = _UNSET
        seq += 1
    return messages


def _restored(
    data: str | bytes, origin: Origin, seq: int, received_at: float, *route: str | int | None
) -> Message:
    message = Message(data, origin, seq, received_at)
    if route:
        message._route = route[0]
    return message


def _as_route(found: object) -> str | int | None:
    """Return *found* if it's a string or a whole number, or ``None``. A bool isn't a number."""
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None


def payload_bytes(data: str | bytes) -> int:
    """Return the size of a payload in bytes."""
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode(errors="replace"))


def memory_bytes(data: str | bytes) -> int:
    """Return the approximate memory of a waiting message with this payload, in bytes."""
    if isinstance(data, bytes) or data.isascii():
        return MESSAGE_BYTES + len(data)
    return MESSAGE_BYTES + getsizeof(data)  # one emoji makes every character take 4 bytes


def _size(data: str | bytes) -> str:
    return f"{len(data)} {'characters' if isinstance(data, str) else 'bytes'}"


def undecodable(error: Exception, data: str | bytes) -> DecodeError:
    """Return a DecodeError whose text contains nothing of the payload."""
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, RecursionError):
        return DecodeError("payload is nested too deeply")
    return DecodeError(f"payload of {_size(data)} cannot be decoded: {shown_failure(error)}")
