"""
Signals, which register handlers in the same way as Django's own signals.

::

    @receiver(message_received, sender=datastreams["prices"])
    def tick(sender, *, stream, message, **kwargs): ...

A receiver can be a synchronous function or a coroutine function. It becomes a handler of the
stream and runs where handlers run. If a receiver raises an exception, it is logged and reported,
and the other receivers still run. ``sender`` and ``stream`` are the stream object.

All signals except ``message_received`` also pass ``key``, the key of the fleet's stream that sent
them. It is ``None`` without a fleet, and in a ``stream_error`` of a fleet's source or lease. For
``message_received``, use ``message.key``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.dispatch import Signal
from django.utils.inspect import func_accepts_kwargs

from datastream_ws import State
from datastream_ws.embedding import check_function, current_key

from .streams import Stream, datastreams

__all__ = [
    "message_received",
    "stream_connected",
    "stream_disconnected",
    "stream_error",
    "stream_failed",
    "stream_ready",
]

# Turns the arguments of a hook into those of receivers. None means that they are not called.
Words = Callable[..., "dict[str, Any] | None"]


class StreamSignal(Signal):
    """
    A signal whose receivers are handlers of the streams they are connected to.

    Args:
        name: Name of the signal in this module.
        decorator: Name of the stream's decorator that registers receivers.
        words: Turns the hook's arguments into the receivers' keyword arguments.
        *facts: Names of the receivers' arguments besides the stream.
        handler: Builds the handler that calls a synchronous receiver.

    """

    def __init__(
        self,
        name: str,
        decorator: str,
        words: Words,
        *facts: str,
        handler: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.facts = facts
        self.decorator = decorator
        self.words = words
        self.handler = handler or _handler
        self._connected: dict[Hashable, Connected] = {}
        datastreams.for_each(self._add_stream)

    def connect(
        self,
        receiver: Callable[..., Any],
        sender: object | None = None,
        weak: bool = True,
        dispatch_uid: Hashable | None = None,
    ) -> None:
        """
        Connect *receiver* to one stream, or to all of them.

        Args:
            receiver: The function to call.
            sender: ``datastreams[alias]``. ``None`` means every stream.
            weak: Whether the receiver is disconnected when there is no other reference to it.
            dispatch_uid: Prevents a second connection if a module is imported twice.

        Raises:
            ConfigurationError: If the receiver does not accept the signal's arguments.
            TypeError: If *sender* is not a stream.
            ValueError: If the receiver does not accept ``**kwargs``.

        """
        if sender is not None and not isinstance(sender, Stream):
            raise TypeError("the sender must be a stream, such as datastreams['default']")
        given = ("sender", "stream", *self.facts)
        check_function(self.name, receiver, "", given)
        if not func_accepts_kwargs(receiver):
            raise ValueError("Signal receivers must accept keyword arguments (**kwargs).")
        super().connect(receiver, sender, weak, dispatch_uid)
        with datastreams.lock:
            self._forget_dead()
            key = _key(receiver, sender, dispatch_uid)
            if key not in self._connected:
                connected = self._connected[key] = Connected(self, receiver, sender, weak)
                for stream in datastreams.made if sender is None else [sender]:
                    connected.add_to(stream)

    def disconnect(
        self,
        receiver: Callable[..., Any] | None = None,
        sender: object | None = None,
        dispatch_uid: str | None = None,
    ) -> bool:
        """Disconnect a receiver. Return whether it was connected."""
        with datastreams.lock:
            connected = self._connected.pop(_key(receiver, sender, dispatch_uid), None)
            if connected is not None:
                connected.remove()
        return super().disconnect(receiver, sender, dispatch_uid)

    def _add_stream(self, stream: Stream) -> None:
        for connected in self._connected.values():
            if connected.sender is None:
                connected.add_to(stream)

    def _forget_dead(self) -> None:
        for key in [key for key, found in self._connected.items() if found.receiver() is None]:
            self._connected.pop(key).remove()


def _key(receiver: Any, sender: Any, dispatch_uid: Hashable | None) -> Hashable:
    if dispatch_uid:
        return (dispatch_uid, id(sender))
    if hasattr(receiver, "__func__"):
        return (id(receiver.__self__), id(receiver.__func__), id(sender))
    return (id(receiver), id(sender))


class Connected:
    """A receiver, and a handler for each stream that calls it."""

    def __init__(
        self, signal: StreamSignal, receiver: Callable[..., Any], sender: Any, weak: bool
    ) -> None:
        self.signal = signal
        self.sender = sender
        self.receiver = _reference(receiver) if weak else lambda: receiver
        self._make = _async_handler if iscoroutinefunction(receiver) else signal.handler
        self._module = getattr(receiver, "__module__", "")
        self._name = getattr(receiver, "__qualname__", type(receiver).__qualname__)
        self._handlers: list[tuple[Stream, Callable[..., Any]]] = []

    def add_to(self, stream: Stream) -> None:
        handler = self._make(self.signal, self.receiver, stream)
        # Logs and failed messages show the name of the receiver.
        handler.__module__, handler.__qualname__ = self._module, self._name
        getattr(stream, self.signal.decorator)(handler)
        self._handlers.append((stream, handler))
        if self.sender is None:
            stream.for_every_stream.append(handler)

    def remove(self) -> None:
        for stream, handler in self._handlers:
            stream.handlers.remove(handler)
            if self.sender is None:
                stream.for_every_stream.remove(handler)


def _reference(receiver: Any) -> Callable[[], Any]:
    if hasattr(receiver, "__self__") and hasattr(receiver, "__func__"):
        return weakref.WeakMethod(receiver)
    return weakref.ref(receiver)


Reference = Callable[[], Any]


def _handler(signal: StreamSignal, reference: Reference, stream: Stream) -> Callable[..., Any]:
    def handle(*arguments: Any) -> None:
        words = signal.words(*arguments)
        receiver = reference()
        if receiver is not None and words is not None:
            receiver(signal=signal, sender=stream, stream=stream, **words)

    return handle


def _async_handler(
    signal: StreamSignal, reference: Reference, stream: Stream
) -> Callable[..., Any]:
    async def handle(*arguments: Any) -> None:
        words = signal.words(*arguments)
        receiver = reference()
        if receiver is not None and words is not None:
            await receiver(signal=signal, sender=stream, stream=stream, **words)

    return handle


def _message_handler(
    signal: StreamSignal, reference: Reference, stream: Stream
) -> Callable[..., Any]:
    """Do the same as :func:`_handler`, but faster, because it is called for each message."""

    def handle(message: Any) -> None:
        receiver = reference()
        if receiver is not None:
            receiver(signal=signal, sender=stream, stream=stream, message=message)

    return handle


def _about(**facts: Any) -> dict[str, Any]:
    """Add the key of the stream whose hook runs here."""
    return {"key": current_key(), **facts}


def _failure(event: Any) -> dict[str, Any] | None:
    return _about(error=event.error) if event.state is State.FAILED else None


def _ready(event: Any) -> dict[str, Any] | None:
    return _about() if event.state is State.READY else None


message_received = StreamSignal(
    "message_received",
    "on_message",
    lambda message: {"message": message},
    "message",
    handler=_message_handler,
)
"""Sent for each message, with ``message``."""

stream_connected = StreamSignal("stream_connected", "on_connect", _about, "key")
"""Sent after each opening handshake, with ``key``."""

stream_ready = StreamSignal("stream_ready", "on_state", _ready, "key")
"""Sent once the ``on_ready`` handlers of a connection have succeeded, with ``key``."""

stream_disconnected = StreamSignal(
    "stream_disconnected", "on_disconnect", lambda event: _about(event=event), "event", "key"
)
"""Sent when an open connection has ended, with ``event``, a DisconnectEvent, and ``key``."""

stream_error = StreamSignal(
    "stream_error", "on_error", lambda error: _about(error=error), "error", "key"
)
"""Sent for each error of the network or of a handler, with ``error`` and ``key``."""

stream_failed = StreamSignal("stream_failed", "on_state", _failure, "error", "key")
"""Sent when a stream has given up, with ``error`` and ``key``."""
