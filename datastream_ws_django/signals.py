"""
Signals: the other way to register handlers, for those who know Django's.

    @receiver(message_received, sender=datastreams["prices"])
    def tick(sender, *, stream, message, **kwargs): ...

A receiver, plain or coroutine function, becomes a handler of the stream: it runs where handlers
run, one that raises is logged and reported, and the others still run. ``sender`` and ``stream``
are the stream object.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.dispatch import Signal
from django.utils.inspect import func_accepts_kwargs

from datastream_ws import State

from .streams import Stream, datastreams

__all__ = [
    "message_received",
    "stream_connected",
    "stream_disconnected",
    "stream_error",
    "stream_failed",
    "stream_ready",
]

# What a hook was given, as keyword arguments for receivers; None: it does not concern them.
Words = Callable[..., "dict[str, Any] | None"]


class StreamSignal(Signal):
    """
    A signal whose receivers are handlers of the streams they are connected to.

    Args:
        decorator: Name of the stream's decorator that receivers are registered with.
        words: Turns what that gives into the receivers' keyword arguments.

    """

    def __init__(self, decorator: str, words: Words) -> None:
        super().__init__()
        self._decorator = decorator
        self._words = words
        self._connected: dict[Hashable, Connected] = {}
        self._registering = threading.RLock()
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
            sender: ``datastreams[alias]``; ``None``: every stream, those made later too.
            weak: Whether the receiver is forgotten when nobody else refers to it.
            dispatch_uid: Makes the connection unique where a module may be imported twice.

        """
        if sender is not None and not isinstance(sender, Stream):
            raise TypeError("the sender of a stream's signals is a stream: datastreams['default']")
        if not func_accepts_kwargs(receiver):
            raise ValueError("Signal receivers must accept keyword arguments (**kwargs).")
        super().connect(receiver, sender, weak, dispatch_uid)
        with self._registering:
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
        """Take a connection back; return whether there was one."""
        with self._registering:
            connected = self._connected.pop(_key(receiver, sender, dispatch_uid), None)
            if connected is not None:
                connected.remove()
        return super().disconnect(receiver, sender, dispatch_uid)

    def _add_stream(self, stream: Stream) -> None:
        with self._registering:
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
    """A receiver, and the calls that are registered for it."""

    def __init__(
        self, signal: StreamSignal, receiver: Callable[..., Any], sender: Any, weak: bool
    ) -> None:
        self.signal = signal
        self.sender = sender
        self.receiver = _reference(receiver) if weak else lambda: receiver
        self._kind = AsyncCall if iscoroutinefunction(receiver) else Call
        self._named = receiver
        self._calls: list[tuple[Stream, Call]] = []
        if weak:
            self._named = _Named(receiver)

    def add_to(self, stream: Stream) -> None:
        call = self._kind(self, stream, self._named)
        getattr(stream, self.signal._decorator)(call)
        self._calls.append((stream, call))

    def remove(self) -> None:
        for stream, call in self._calls:
            stream.handlers.remove(call)


class _Named:
    """What a receiver is called, without the receiver."""

    def __init__(self, receiver: Any) -> None:
        self.__module__ = getattr(receiver, "__module__", "")
        self.__qualname__ = getattr(receiver, "__qualname__", type(receiver).__qualname__)

    def __call__(self) -> None: ...


def _reference(receiver: Any) -> Callable[[], Any]:
    if hasattr(receiver, "__self__") and hasattr(receiver, "__func__"):
        return weakref.WeakMethod(receiver)
    return weakref.ref(receiver)


class Call:
    """A receiver as a handler of one stream."""

    def __init__(self, connected: Connected, stream: Stream, named: Any) -> None:
        self._receiver = connected.receiver
        self._words = connected.signal._words
        self._given = {"signal": connected.signal, "sender": stream, "stream": stream}
        self.__module__ = named.__module__  # logs and dead letters name the receiver
        self.__qualname__ = getattr(named, "__qualname__", type(named).__qualname__)

    def __call__(self, *arguments: Any) -> Any:
        words = self._words(*arguments)
        receiver = self._receiver()
        if receiver is not None and words is not None:
            receiver(**self._given, **words)


class AsyncCall(Call):
    """A coroutine receiver as a handler of one stream."""

    async def __call__(self, *arguments: Any) -> Any:
        words = self._words(*arguments)
        receiver = self._receiver()
        if receiver is not None and words is not None:
            await receiver(**self._given, **words)


def _failure(event: Any) -> dict[str, Any] | None:
    return {"error": event.error} if event.state is State.FAILED else None


def _ready(event: Any) -> dict[str, Any] | None:
    return {} if event.state is State.READY else None


message_received = StreamSignal("on_message", lambda message: {"message": message})
"""Sent for each message, with ``message``."""

stream_connected = StreamSignal("on_connect", dict)
"""Sent after each opening handshake."""

stream_ready = StreamSignal("on_state", _ready)
"""Sent once the ``on_ready`` handlers of a connection have succeeded."""

stream_disconnected = StreamSignal("on_disconnect", lambda event: {"event": event})
"""Sent when an open connection has ended, with ``event``, a DisconnectEvent."""

stream_error = StreamSignal("on_error", lambda error: {"error": error})
"""Sent for each reported error, with ``error``; the network's and the handlers' too."""

stream_failed = StreamSignal("on_state", _failure)
"""Sent when a stream has given up, with ``error``."""
