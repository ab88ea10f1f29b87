"""
The blinker signals of a stream. Sender: the app; ``stream``: the ``DataStream``.

==========================  =====================  ==============================================
``message_received``        ``stream, message``    every message; counts as a bare ``on_message``
``stream_ready``            ``stream``             connected, and the ``on_ready`` hooks succeeded
``stream_disconnected``     ``stream, event``      a :class:`~datastream_ws.DisconnectEvent`
``stream_error``            ``stream, error``      every reported error, the network's too
``stream_failed``           ``stream, error``      the stream gave up
==========================  =====================  ==============================================

All but ``message_received`` also pass ``key`` to receivers that have such a parameter, or
``**extra``. It is the key of the fleet's stream that the signal is about, and ``None`` without a
fleet, and in a ``stream_error`` of a fleet's source or lease. A message has a ``key`` of its own.

Receivers are synchronous functions. Each is called in an application context of its own, or in that
of the run with ``DATASTREAM_CONTEXT = "run"``. A receiver that raises is reported, as a handler is,
and the others still run. A receiver that lost its database connection is called once more.

::

    @message_received.connect_via(app)
    def store(app, *, stream, message, **extra):
        ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from blinker import ANY, NamedSignal

from datastream_ws import State
from datastream_ws.embedding import check_function, current_key

if TYPE_CHECKING:
    from flask import Flask

    from datastream_ws import DisconnectEvent, Handlers, Message, StateEvent

__all__ = [
    "message_received",
    "stream_disconnected",
    "stream_error",
    "stream_failed",
    "stream_ready",
]

F = TypeVar("F", bound=Callable[..., Any])


class StreamSignal(NamedSignal):
    """
    A signal that refuses a receiver that cannot be called as it will be.

    Args:
        name: As blinker knows it.
        *facts: What receivers are given by name, besides the app.

    """

    def __init__(self, name: str, *facts: str) -> None:
        super().__init__(name)
        self._facts = ("stream", *facts)

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True) -> F:
        """Connect *receiver*. Raises ConfigurationError, with the form that it should have."""
        given = [name for name in self._facts if name != "key" or takes_key(receiver)]
        check_function(self.name.replace("-", "_"), receiver, "app", tuple(given))
        return super().connect(receiver, sender, weak)


message_received = StreamSignal("message-received", "message")
stream_ready = StreamSignal("stream-ready", "key")
stream_disconnected = StreamSignal("stream-disconnected", "event", "key")
stream_error = StreamSignal("stream-error", "error", "key")
stream_failed = StreamSignal("stream-failed", "error", "key")


class Announcer:
    """
    Sends the signals of one stream in one app.

    Args:
        stream: What receivers are given as ``stream``.
        handlers: Those of the client in this app; ``message_received`` joins them with its first
            receiver, because until then it would only cost time.
        wants_retry: Whether a receiver that failed with an error is called once more.
        has_own_contexts: Whether each receiver is called in an application context of its own,
            not in that of the run.

    """

    def __init__(
        self,
        app: Flask,
        stream: object,
        handlers: Handlers,
        wants_retry: Callable[[BaseException], bool],
        has_own_contexts: bool = True,
    ) -> None:
        self._app = app
        self._stream = stream
        self._handlers = handlers
        self._wants_retry = wants_retry
        self._has_own_contexts = has_own_contexts
        self._sends_messages = False
        handlers.on_state(self._state)
        handlers.on_disconnect(self._disconnected)
        handlers.on_error(self._error)
        message_received.receiver_connected.connect(self._receiver_connected, message_received)
        self._receiver_connected()

    def _receiver_connected(self, *_: Any, **__: Any) -> None:
        if not self._sends_messages and message_received.has_receivers_for(self._app):
            self._sends_messages = True
            self._handlers.on_message(self._message)

    def _message(self, message: Message) -> None:
        self._send(message_received, message=message)

    def _state(self, event: StateEvent) -> None:
        if event.state is State.READY:
            self._send(stream_ready, key=current_key())
        elif event.state is State.FAILED:
            self._send(stream_failed, error=event.error, key=current_key())

    def _disconnected(self, event: DisconnectEvent) -> None:
        self._send(stream_disconnected, event=event, key=current_key())

    def _error(self, error: BaseException) -> None:
        self._send(stream_error, error=error, key=current_key())

    def _send(self, signal: NamedSignal, **facts: Any) -> None:
        """Call every receiver; afterwards raise what they raised, in an ExceptionGroup."""
        errors: list[Exception] = []
        for receiver in signal.receivers_for(self._app):
            try:
                # What a failed receiver has left in the run's context is not for the next one.
                self._call(receiver, facts, self._has_own_contexts or bool(errors))
            except Exception as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"receivers of {signal.name} failed", errors)

    def _call(self, receiver: Callable[..., Any], facts: dict[str, Any], in_own: bool) -> None:
        if "key" in facts and not takes_key(receiver):
            facts = {name: fact for name, fact in facts.items() if name != "key"}
        try:
            self._call_once(receiver, facts, in_own)
        except Exception as error:
            if not self._wants_retry(error):
                raise
            self._call_once(receiver, facts, True)

    def _call_once(self, receiver: Callable[..., Any], facts: dict[str, Any], in_own: bool) -> None:
        with self._app.app_context() if in_own else nullcontext():
            self._app.ensure_sync(receiver)(self._app, stream=self._stream, **facts)


def takes_key(receiver: Callable[..., Any]) -> bool:
    """Whether a receiver has room for ``key``, which those of version 0.1 were not given."""
    try:
        parameters = inspect.signature(receiver, follow_wrapped=False).parameters
    except (TypeError, ValueError):  # of a builtin
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    return "key" in parameters or inspect.Parameter.VAR_KEYWORD in kinds
