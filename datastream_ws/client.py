"""The blocking client, which drives an :class:`AsyncClient` from any thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from .async_client import AsyncClient
from .connection.connection import Connection
from .events import Handshake, State
from .exceptions import LONGEST_SECONDS, ConfigurationError, SendTimeoutError
from .forks import notice_fork, watch_forks
from .handlers import Decorators, Handlers
from .handling.budget import Budget
from .handling.callers import InlineCaller, drive
from .handling.current import handling, passes_gate
from .handling.deliver import deliver
from .lifecycle.assembly import Place
from .lifecycle.commands import CloseFrame, close_frame
from .messages import Message
from .option_types import Options, Url
from .options import ClientOptions
from .process.futures import Observable, capped
from .process.loop_thread import LoopThread
from .process.loop_use import (
    CLOSE_GRACE,
    LoopUse,
    abandon_loop,
    end_loop_use,
    threads,
    use_responsive_loop,
)
from .process.signals import signals_to
from .redaction import hides_arguments
from .stats import Stats

__all__ = ["Client"]

T = TypeVar("T")

RESPONSE_SECONDS = 0.1  # a loop that takes longer counts as blocked while a client waits


class Client(Decorators):
    """
    A WebSocket stream that stays connected, in the background of this process.

    You can call every method from any thread, including from handlers. The client runs an
    :class:`AsyncClient` on an event loop in a daemon thread, which all clients of the process
    share. Synchronous handlers run on handler threads. After a fork, the child's client is idle,
    and you can start it there.

    Args:
        url: The option ``url``, or :class:`ClientOptions` that the other options override.
        **options: See :class:`ClientOptions`.

    Attributes:
        aio: The :class:`AsyncClient`, for coroutine handlers.

    Raises:
        ConfigurationError: If an option is unknown or invalid.

    Example::

        client = Client("wss://api.example.com/stream")

        @client.on_message
        def handle(message):
            print(message.data)

        client.run()                    # until Ctrl-C or SIGTERM

        with client:                    # or in the background, while the block runs
            client.wait_ready(timeout=10)
            client.send({"type": "hello"})

    """

    @hides_arguments
    def __init__(
        self, url: Url | ClientOptions | None = None, /, **options: Unpack[Options]
    ) -> None:
        self.aio = AsyncClient(url, **options)
        self.aio._face = self
        self._loop_use: LoopUse | None = None
        watch_forks(self)

    # --- facts ---

    @property
    def options(self) -> ClientOptions:
        """The options that the client was created with."""
        return self.aio.options

    @property
    def handlers(self) -> Handlers:  # type: ignore[override]  # read-only here
        """The registry of handlers and hooks."""
        return self.aio.handlers

    @property
    def name(self) -> str:
        """The option ``name``, which logs and metrics use."""
        return self.aio.name

    @property
    def key(self) -> Any:
        """The key of a fleet's stream, as its source returned it. ``None`` without a fleet."""
        return self.aio.key

    @property
    def state(self) -> State:
        """The current state. It's also CLOSED if the event loop has ended."""
        return self.aio.state

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent and received."""
        return self.aio.is_connected

    @property
    def is_ready(self) -> bool:
        """Whether the ``on_connect`` and ``on_ready`` hooks of this connection have succeeded."""
        return self.aio.is_ready

    @property
    def error(self) -> BaseException | None:
        """
        The error that made the client fail. ``None`` if it hasn't failed.

        With ``fatal_delay``, it's the error that prevents a connection at the moment.
        """
        return self.aio.error

    @property
    def last_message(self) -> Message | None:
        """
        The last message received since ``start()``. ``None`` before the first one.

        With ``journal``, the spool also has it after a restart. It is ``None`` after unhandled
        messages were dropped because the lease was lost. Then resume from your own store.
        """
        return self.aio.last_message

    @property
    def handshake(self) -> Handshake | None:
        """The subprotocol and headers of the current connection. ``None`` if there is none."""
        return self.aio.handshake

    def stats(self) -> Stats:
        """Return a consistent snapshot of all counters since ``start()``."""
        return self.aio.stats()

    def errors(self, timeout: float | None = None) -> Iterator[BaseException]:
        """
        Iterate over errors as they occur, until the client has closed.

        It blocks the calling thread between errors. Each iteration starts with the errors that are
        still kept, including those of the network. At most 1,000 errors are kept, and at most a
        tenth of ``inbox_bytes``. The oldest are removed first.

        Args:
            timeout: Seconds without an error after which the iteration ends. ``None`` means never.

        """
        notice_fork()
        return self.aio._errors.read(timeout)

    # --- start and end ---

    def start(self) -> None:
        """
        Connect and stay connected in the background, and return without waiting.

        If user code blocks the event loop for 5 seconds, the client uses another loop.
        It never raises for network errors. Calling it again has no effect while the client runs.
        After ``close()``, or once the client has failed, it starts with new numbers and counters.

        Raises:
            ConfigurationError: If the package that the lease requires isn't installed.

        """
        if not self.state.is_final:
            return
        use = use_responsive_loop(
            self, lambda thread: self._log_blocked(thread, "this client starts on another one")
        )
        try:
            if use.thread.is_current:
                self._begin(use)
            else:
                use.thread.run(_as_coroutine(lambda: self._begin(use)))
        except BaseException:
            if use.thread.is_current or handling.get() is not None:
                self._end_use_soon(use)
            else:
                end_loop_use(use)
            raise

    def _begin(self, use: LoopUse) -> None:
        self.aio._begin(is_iterable=False)
        use.finished = self.aio._finished
        assert use.finished is not None
        use.finished.add_done_callback(lambda _: self._end_use_soon(use))
        self._loop_use = use  # last, because other threads wait for the end of what has begun

    def _end_use_soon(self, use: LoopUse) -> None:
        threads().call(lambda: end_loop_use(use))

    @property
    def _finished(self) -> Future[None] | None:
        """A future for the end of the client and its hooks. ``None`` if it isn't started."""
        return self.aio._finished

    def _share(self, budget: Budget) -> None:
        """Handle at most as many messages as *budget* allows, from the next ``start()`` on."""
        self.aio._budget = budget

    def _join(self, place: Place) -> None:
        """Become a stream of a fleet, from the next ``start()`` on."""
        self.aio._place = place

    def run(self) -> None:
        """
        Start the client, and block until it has closed.

        In the main thread, the first SIGINT or SIGTERM closes the client, which handles what it
        has received. A second signal closes it immediately.

        Raises:
            ConfigurationError: If the package that the lease requires isn't installed.
            Exception: The client's error, if it failed, usually a DataStreamError or OSError.

        """
        news: SimpleQueue[str] = SimpleQueue()  # its put() is safe in a signal handler
        with signals_to(lambda number: news.put("signal")):
            self.start()
            finished = self._finished
            assert finished is not None
            finished.add_done_callback(lambda _: news.put("finished"))
            if _next(news) == "signal":
                deadline = self._ask_close(None)
                if _next(news, deadline) == "signal":
                    deadline = self._ask_close(0.0)
                self._end_by(deadline)
        self.aio._raise_if_failed()

    def request_close(self) -> None:
        """
        Request that the client closes, without waiting. A second request closes immediately.

        You can call it from any thread and from a signal handler.
        """
        self.aio.request_close()

    def close(self, timeout: float | None = None, code: int = 1000, reason: str = "") -> None:
        """
        Stop reading, handle what was received, write what is queued, and close the connection.

        It blocks until the client has closed, and always returns within *timeout* + 1 seconds.
        Calling it again has no effect. Inside a handler of this client, it requests the shutdown
        and returns.

        Args:
            timeout: Seconds for all of it. ``None`` means ``close_timeout``. Messages that are
                unhandled then stay in the spool, or are counted as dropped if there is none.
            code: The close code that the server receives: 1000, 1001, or from 3000 to 4999.
            reason: The reason that the server receives, at most 123 bytes in UTF-8.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.

        """
        notice_fork()
        deadline = self._ask_close(timeout, close_frame(code, reason))
        use = self._loop_use
        if use is not None and handling.get() is not self and not use.thread.is_current:
            self._end_by(deadline)

    def _ask_close(self, timeout: float | None, final_frame: CloseFrame | None = None) -> float:
        """Request the close, and return the monotonic time by which it must have ended."""
        limit = min(self.aio._ask_close(timeout, final_frame), LONGEST_SECONDS)
        return time.monotonic() + limit + CLOSE_GRACE

    def _end_by(self, deadline: float) -> None:
        """Wait for the end until *deadline*, even if user code blocks the loop."""
        use = self._loop_use
        if use is None:  # not begun: start() in another thread comes later
            return
        if not use.wait(deadline):
            if use.thread.responds(RESPONSE_SECONDS):
                self.aio._log("warning", "close() returns although the client is still closing")
                return
            self._log_blocked(use.thread, "the client is closed without waiting for it")
            self._abandon(use)
            deadline = 0.0
        if handling.get() is None:
            end_loop_use(use, deadline)

    def _log_blocked(self, thread: LoopThread, what_follows: str) -> None:
        self.aio._log(
            "error",
            "user code blocks the event loop; %s. Move code that blocks into a synchronous "
            "handler, which runs on a thread. The event loop is at:\n%s",
            what_follows,
            thread.stack(),
        )

    def _abandon(self, use: LoopUse) -> None:
        """Set the state to CLOSED while user code blocks the loop, which ends when it returns."""
        abandon_loop(use.thread)
        state, self.aio._state = self.aio._state, Observable(State.CLOSED)
        state.set(State.CLOSED)
        self.aio._errors.end()
        with suppress(InvalidStateError):  # the client has just ended
            if use.finished is not None:
                use.finished.set_result(None)

    def _abandon_if_running(self) -> None:
        """Abandon a running client of a fleet whose loop is blocked."""
        if self._loop_use is not None and not self.state.is_final:
            self._abandon(self._loop_use)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    if not TYPE_CHECKING:  # so that type checkers report `async with Client(…)`

        async def __aenter__(self) -> Any:
            raise TypeError("use `async with AsyncClient(…)` in a coroutine, or `with Client(…)`")

        async def __aexit__(self, *exception: object) -> None: ...

    def wait_ready(self, timeout: float | None = None) -> None:
        """
        Block the calling thread until the client is ready.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If it isn't ready in time.
            NotConnectedError: If the client isn't started, or closes while waiting.
            Exception: The client's error, once it has failed, usually a DataStreamError or OSError.
            ConfigurationError: If you call it on the event loop's thread, which it would block.

        """
        self._refuse_on_loop("wait_ready")
        try:
            self.aio._ready_or_final().result(capped(timeout))
        except TimeoutError:
            raise TimeoutError(self.aio._not_ready_text(timeout)) from None
        self.aio._raise_unless_ready()

    def wait_closed(self, timeout: float | None = None) -> None:
        """
        Block the calling thread until the client has closed.

        It returns immediately if the client was never started.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If it hasn't closed in time.
            Exception: The client's error, once it has failed, usually a DataStreamError or OSError.
            ConfigurationError: If you call it on the event loop's thread, which it would block.

        """
        self._refuse_on_loop("wait_closed")
        finished = self.aio._finished
        if finished is not None:
            try:
                finished.result(capped(timeout))
            except TimeoutError:
                raise TimeoutError(self.aio._not_closed_text(timeout)) from None
        self.aio._raise_if_failed()

    def reconnect(self, code: int = 1000, reason: str = "") -> None:
        """
        Drop the connection, or the wait for the next attempt, and connect again.

        It's thread-safe and never blocks. It doesn't wait for the end of this connection or for
        the next one, so an inline handler may call it. It doesn't count as a failed attempt, and
        has no effect while the client is paused.

        Args:
            code: The close code that the server receives: 1000, 1001, or from 3000 to 4999.
            reason: The reason that the server receives, at most 123 bytes in UTF-8.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.
            NotConnectedError: If the client isn't running.

        """
        self.aio._ask_reconnect(code, reason)

    def pause(self, code: int = 1000, reason: str = "") -> None:
        """
        Close the connection and stay offline until :meth:`resume` is called. A lease is kept.

        It's thread-safe and never blocks. Calling it again has no effect.

        Args:
            code: The close code that the server receives: 1000, 1001, or from 3000 to 4999.
            reason: The reason that the server receives, at most 123 bytes in UTF-8.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.
            NotConnectedError: If the client isn't running.

        """
        self.aio._ask_pause(code, reason)

    def resume(self) -> None:
        """
        Connect again after :meth:`pause`.

        It's thread-safe and never blocks. It has no effect unless the client is paused.

        Raises:
            NotConnectedError: If the client isn't running.

        """
        self.aio._ask_resume()

    # --- sending ---

    def send(self, obj: Any, wait: float = 0.0) -> Queued:
        """
        Queue a message for sending. Messages of one thread keep their order.

        It's thread-safe. It blocks, at most ``write_timeout``, only while the write queue is full
        or ``send_rate`` holds it back. In a coroutine handler it never blocks, so await its result
        there.

        Args:
            obj: A str becomes a text frame, and bytes become a binary frame. The codec encodes
                any other object.
            wait: Seconds to wait for a connection if there is none.

        Returns:
            An awaitable that waits for room in the queue. You only need it in a coroutine handler.

        Raises:
            EncodeError, TypeError: If the codec can't encode *obj*.
            NotConnectedError: If there is no open connection.
            SendTimeoutError: If the queue stays full.

        """
        frame = self.aio._encode(obj)
        connection = self.aio._connection()
        if self._is_on_loop():
            connection = connection or self.aio._refuse()
            self.aio._send(connection, frame)
            return Queued(self.aio, connection)
        if connection is None:
            connection = self._wait_connected(wait)
        passes = passes_gate(self)
        self._wait_for_room(connection, passes)
        connection.send(frame, passes_gate=passes)
        return Queued(self.aio, None)

    def _wait_connected(self, wait: float) -> Connection:
        until = time.monotonic() + wait
        while (change := self.aio._change_before(until)) is not None:
            with suppress(TimeoutError):
                change.result(capped(until - time.monotonic()))
        return self.aio._connection() or self.aio._refuse(wait)

    def _wait_for_room(self, connection: Connection, passes: bool) -> None:
        room = connection.room(passes_gate=passes)
        if room is None:
            return
        try:
            room.result(self.options.write_timeout)
        except SendTimeoutError:
            raise
        except TimeoutError:
            raise self.aio._no_room() from None
        finally:
            room.cancel()  # so that it takes no other sender's turn

    def flush(self, timeout: float | None = None) -> None:
        """
        Block until every queued message is written.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If messages are still unsent then.
            NotConnectedError: If there is no connection, or it is lost while waiting.
            SendTimeoutError: If nothing could be written for ``write_timeout``.
            ConfigurationError: If you call it on the event loop's thread, which it would block.

        """
        self._refuse_on_loop("flush")
        try:
            self.aio._flushed().result(capped(timeout))
        except TimeoutError as error:
            raise self.aio._not_flushed(error, timeout) from None

    def request(
        self, obj: Any, match: Callable[[Message], Any], timeout: float | None = 30.0
    ) -> Message:
        """
        Send *obj* and return the first message after it for which ``match(message)`` is true.

        It blocks the calling thread. Handlers get that message, too.

        Args:
            obj: As for :meth:`send`.
            match: It runs on the loop's thread, so keep it short.
            timeout: Seconds to wait. ``None`` waits as long as the connection lives.

        Raises:
            TimeoutError: If no such message arrives in time.
            NotConnectedError: If there is no connection, or it is lost before the reply.
            ConfigurationError: If you call it on the event loop's thread, which it would block.
            Exception: Any exception that *match* raises.

        """
        self._refuse_on_loop("request")
        frame = self.aio._encode(obj)
        connection = self.aio._connection() or self.aio._refuse()
        self._wait_for_room(connection, passes_gate(self))
        send = self.aio._sender(connection, frame)
        return self._first_message(connection, match, timeout, send)

    def receive(
        self, match: Callable[[Message], Any] | None = None, timeout: float | None = 30.0
    ) -> Message:
        """
        Return the next message for which ``match(message)`` is true, without sending anything.

        It blocks the calling thread. In ``on_connect`` and ``on_ready`` it starts with the first
        message of that connection. Handlers get the message, too.

        Args:
            match: It runs on the loop's thread, so keep it short. ``None`` takes any message.
            timeout: Seconds to wait. ``None`` waits as long as the connection lives.

        Raises:
            TimeoutError: If no such message arrives in time.
            NotConnectedError: If there is no connection, or it is lost before the message.
            ConfigurationError: If you call it on the event loop's thread, which it would block.
            Exception: Any exception that *match* raises.

        """
        self._refuse_on_loop("receive")
        connection = self.aio._connection() or self.aio._refuse()
        return self._first_message(connection, match, timeout, None)

    def _first_message(
        self,
        connection: Connection,
        match: Callable[[Message], Any] | None,
        timeout: float | None,
        send: Callable[[], None] | None,
    ) -> Message:
        """Wait on the loop for a message, at most until the client ends or its loop is blocked."""
        self.aio._running()
        use = self._loop_use
        assert use is not None
        assert use.finished is not None
        waiting = self.aio._first_message(connection, match, timeout, send)
        future = asyncio.run_coroutine_threadsafe(waiting, use.thread.loop)
        limit = None if timeout is None else capped(max(0.0, timeout) + CLOSE_GRACE)
        try:
            either: list[Future[Any]] = [future, use.finished]
            wait(either, limit, FIRST_COMPLETED)
            return future.result(RESPONSE_SECONDS)
        except TimeoutError:
            if future.done():
                raise
            raise self.aio._unanswered(timeout) from None
        finally:
            future.cancel()

    def subscribe(self, obj: Any, key: Hashable = None, unsubscribe: Any = None) -> Hashable:
        """
        Send *obj* now, and again on every connection, between ``on_connect`` and ``on_ready``.

        It's thread-safe and never blocks. The messages are written as the connection accepts them.
        You can call it before :meth:`start`. Calling it again with the same arguments has no
        effect.

        Args:
            obj: As for :meth:`send`, or a callable that returns such an object. It's called for
                each connection, and may be a coroutine function.
            key: The name of the subscription. A new subscription replaces one with the same key.
                ``None`` uses the encoded message, or the callable, as the key.
            unsubscribe: The message that :meth:`unsubscribe` sends, or a callable that it calls
                to get one. ``None`` sends nothing.

        Returns:
            The key, which :meth:`unsubscribe` takes.

        Raises:
            EncodeError, TypeError: If the codec can't encode a message.

        """
        return self.aio._subscribe(obj, key, unsubscribe)

    def unsubscribe(self, key: Hashable) -> None:
        """
        End a subscription, and send its unsubscribe message if there is one.

        It's thread-safe and never blocks. An unknown key has no effect.
        """
        self.aio._unsubscribe(key)

    def _is_on_loop(self) -> bool:
        use = self._loop_use
        return use is not None and use.thread.is_current

    def _refuse_on_loop(self, verb: str) -> None:
        if self._is_on_loop():
            raise ConfigurationError(
                f"{verb}() would block the event loop. In a coroutine handler, use "
                f"await client.aio.{verb}(...)."
            )

    # --- tests and processes ---

    def deliver(self, data: Any, robust: bool = False) -> None:
        """
        Pass a message to the handlers in this thread, without a network.

        Use it in tests. It returns when the handlers have finished, and needs no :meth:`start`.
        Coroutine handlers run on a temporary event loop.

        Args:
            data: A str or bytes as received. Any other object is encoded first.
            robust: ``True`` reports a handler's exception, as in production. ``False`` raises it.

        Raises:
            ConfigurationError: If an event loop runs in this thread.

        """
        if asyncio._get_running_loop() is not None:
            raise ConfigurationError(
                "deliver() would block the event loop. In a coroutine, use "
                "await client.aio.deliver(...)."
            )
        message = self.aio._made_up(data)
        report = self.aio._report_delivered
        drive(deliver(self.handlers, message, InlineCaller(), robust=robust, report=report))

    def _forget_parent(self) -> None:
        """Reset the client in a forked child, where the loop's thread doesn't run."""
        self._loop_use = None

    def __repr__(self) -> str:
        if "aio" not in vars(self):  # __init__ failed, and a traceback shows its frames
            return f"<{type(self).__name__}>"
        return repr(self.aio).replace(type(self.aio).__name__, type(self).__name__, 1)


class Queued(Awaitable[None]):
    """The result of ``Client.send``. Awaiting it on the loop waits for room in the queue."""

    def __init__(self, client: AsyncClient, connection: Connection | None) -> None:
        self._client = client
        self._connection = connection

    def __await__(self) -> Generator[Any, None, None]:
        if self._connection is not None:
            yield from self._client._room(self._connection).__await__()


def _next(news: SimpleQueue[str], deadline: float = float("inf")) -> str | None:
    """Return the next word, or ``None`` if none arrives before *deadline*."""
    while (left := deadline - time.monotonic()) > 0:
        with suppress(Empty):
            # Short waits, because a signal just before a wait doesn't interrupt it.
            return news.get(timeout=min(1.0, left))
    return None


async def _as_coroutine(function: Callable[[], T]) -> T:
    return function()
