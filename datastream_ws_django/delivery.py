"""Pass a message to a stream's handlers without a connection, in tests and in retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol

from asgiref.sync import async_to_sync

from datastream_ws import Handlers, Message
from datastream_ws.embedding import (
    Handler,
    HandlerRun,
    InlineCaller,
    Origin,
    about,
    check_key,
    drive,
    fields,
    write,
)
from datastream_ws.embedding import deliver as core_deliver

from .conf import StreamSettings

__all__ = ["call_handler", "deliver", "message_of"]


class Stream(Protocol):
    """The part of a stream object that this module uses."""

    alias: str

    @property
    def handlers(self) -> Handlers: ...

    @property
    def settings(self) -> StreamSettings: ...

    def register_handlers(self) -> None: ...


def deliver(stream: Stream, data: Any, *, robust: bool = False, key: Any = None) -> None:
    """
    Call the handlers of a message in this thread and its transaction.

    Coroutine handlers run on a temporary event loop. Their async queries run in this thread, too.

    Args:
        stream: The stream whose handlers are called.
        data: str or bytes as received, or an object that the stream's codec encodes.
        robust: Whether an exception of a handler is logged, as in production, and not raised.
        key: Key of the stream that received the message. Only for a fleet.

    Raises:
        TypeError: If *key* is missing for a fleet, or is passed for a single stream.

    """
    refuse_running_loop()
    check_key(stream.alias, key, is_fleet=stream.settings.is_fleet)
    message = message_of(stream, data, key=key)
    caller = InlineCaller(run_coroutine)
    report = partial(log_failure, stream)
    drive(core_deliver(stream.handlers, message, caller, robust=robust, report=report))


def refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "deliver() would block the event loop. In a coroutine, use "
        "await sync_to_async(deliver)(...)."
    )


def message_of(
    stream: Stream,
    data: Any,
    *,
    key: Any = None,
    seq: int = 1,
    connection: int = 0,
    epoch: int = 0,
    received_at: float | None = None,
) -> Message:
    """Build a message of *stream*. Raises ImproperlyConfigured if its settings are invalid."""
    stream.register_handlers()
    options = stream.settings.offline_options()
    codec: Any = options.codec
    if not isinstance(data, str | bytes):
        data = codec.encode(data)
    name = stream.alias if key is None else f"{stream.alias}/{key}"
    origin = Origin(name, connection, epoch, codec, options.route, key=key)
    return Message(data, origin, seq, time.time() if received_at is None else received_at)


def call_handler(stream: Stream, handler: Handler, message: Message) -> None:
    """Call one handler within its contexts. Exceptions of the handler are raised."""
    argument: Any = [message] if handler.is_batch else handler.argument(message)
    run = HandlerRun(stream.handlers, InlineCaller(run_coroutine))

    async def call_and_leave() -> None:
        try:
            await run.call(handler, argument, messages=(message,))
        finally:
            await run.leave()

    drive(call_and_leave())


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine. Its async queries run in this thread and its transaction."""

    async def run() -> Any:
        return await coroutine

    return async_to_sync(run)()


def log_failure(stream: Stream, failure: BaseException) -> None:
    """Log a handler's failure in the same way as a client."""
    extra = fields(stream.alias, **about(failure))
    logger = stream.settings.offline_options().logger
    write(logger, "error", "stream %s: %s", stream.alias, failure, exc_info=failure, extra=extra)
