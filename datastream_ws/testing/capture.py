"""A context manager that collects the messages that a client sends, without a connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

__all__ = ["capture_sent"]


@contextmanager
def capture_sent(client: Any, replies: Iterable[Any] | None = None) -> Iterator[list[Any]]:
    """
    Collect the messages that are sent through *client* while the block runs, in a list.

    Example::

        with capture_sent(client) as sent:
            client.deliver('{"type": "ping"}')      # whose handler sends a pong
        assert sent == [{"type": "pong"}]

    ``send``, ``request``, ``subscribe`` and ``unsubscribe`` are replaced on *client* and on
    ``client.aio``. ``message.reply`` is replaced for messages without a connection. Objects are
    collected as they are passed, without encoding. ``unsubscribe`` adds the unsubscribe message
    that was passed to ``subscribe``.

    Args:
        client: A Client, an AsyncClient, or an object with the methods of one of them.
        replies: The server's replies to ``request``. Each one is a message, or a str, bytes or
            object to create a message from. A request takes the first one that its ``match``
            accepts.

    Raises:
        LookupError: If ``request`` accepts none of the remaining replies.

    """
    from .. import Message

    capture = _Capture(list(replies or ()))
    aio = getattr(client, "aio", None)
    name = getattr(client, "alias", None) or getattr(client, "name", None)
    with ExitStack() as stack:
        stack.enter_context(_replaced(Message, {"reply": capture.reply_of(name)}))
        if aio is not None:
            stack.enter_context(_replaced(client, capture.blocking()))
        stack.enter_context(_replaced(client if aio is None else aio, capture.asynchronous()))
        yield capture.sent


Verbs = dict[str, Callable[..., Any]]


class _Capture:
    """The methods that collect messages instead of sending them."""

    def __init__(self, replies: list[Any]) -> None:
        self.sent: list[Any] = []
        self._replies = [_message(reply) for reply in replies]
        self._unsubscribe: dict[Hashable, Any] = {}

    def blocking(self) -> Verbs:
        return {**self.verbs(), "send": self.send_at_once}

    def asynchronous(self) -> Verbs:
        return {name: _coroutine(verb) for name, verb in self.verbs().items()}

    def verbs(self) -> Verbs:
        names = ("send", "request", "subscribe", "unsubscribe")
        return {name: getattr(self, name) for name in names}

    def send(self, obj: Any, wait: float = 0.0) -> None:
        self.sent.append(obj)

    def send_at_once(self, obj: Any, wait: float = 0.0) -> _Queued:
        self.send(obj, wait)
        return _Queued()

    def reply_of(self, name: str | None) -> Callable[[Any, Any], None]:
        """Return a ``Message.reply`` that collects for the stream *name*, or for all streams."""
        from .. import Message

        real = Message.reply

        def reply(message: Any, obj: Any) -> None:
            if message.origin.send is None and name in (None, message.stream):
                self.sent.append(obj)
            else:
                real(message, obj)

        return reply

    def request(self, obj: Any, match: Callable[[Any], bool], timeout: float | None = 30.0) -> Any:
        self.sent.append(obj)
        for reply in self._replies:
            if match(reply):
                self._replies.remove(reply)
                return reply
        raise LookupError(
            f"capture_sent: no reply matches this request ({len(self._replies)} left). "
            "Pass one with capture_sent(client, replies=[...])."
        )

    def subscribe(self, obj: Any, key: Hashable = None, unsubscribe: Any = None) -> Hashable:
        self.sent.append(obj)
        if key is None:
            key = obj if callable(obj) else _encoded(obj)
        self._unsubscribe[key] = unsubscribe
        return key

    def unsubscribe(self, key: Hashable) -> None:
        obj = self._unsubscribe.pop(key, None)
        if obj is not None:
            self.sent.append(obj)


class _Queued:
    """The result of a blocking send. You can await it on an event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


def _coroutine(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return verb(*args, **kwargs)

    return call


@contextmanager
def _replaced(target: Any, verbs: Verbs) -> Iterator[None]:
    """Set these methods on *target* until the block ends."""
    own = {name: vars(target)[name] for name in verbs if name in vars(target)}
    for name, verb in verbs.items():
        setattr(target, name, verb)
    try:
        yield
    finally:
        for name in verbs:
            delattr(target, name)
        for name, verb in own.items():
            setattr(target, name, verb)


def _message(reply: Any) -> Any:
    """Return *reply* as a message. An object with ``data`` is returned unchanged."""
    if hasattr(reply, "data"):
        return reply
    from .. import Message
    from ..embedding import Origin, codec_for

    origin = Origin("captured", 0, 0, codec_for("json"), "type")
    return Message(_encoded(reply), origin, 0, time.time())


def _encoded(obj: Any) -> str | bytes:
    from ..embedding import codec_for

    return obj if isinstance(obj, str | bytes) else codec_for("json").encode(obj)
