"""The blocking client: the verbs of an :class:`AsyncClient`, from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from .async_client import AsyncClient
from .connection.connection import Connection
from .events import State
from .exceptions import ConfigurationError, SendTimeoutError
from .handlers import Decorators, Handlers
from .handling.callers import InlineCaller, drive
from .handling.contexts import HandlerRun
from .handling.current import handling
from .messages import Message
from .options import ClientOptions
from .process.loop_thread import LoopThread
from .process.loop_use import LoopUse, end_loop_use, notice_fork, threads, use_loop, watch_forks
from .process.signals import signals_to
from .stats import Stats

__all__ = ["Client"]

T = TypeVar("T")


class Client(Decorators):
    """
    A WebSocket stream that stays connected, in the background of this process.

    Every method may be called from any thread, handlers included. The work is done by an
    :class:`AsyncClient` (``client.aio``) on an event loop in a daemon thread that all clients
    of the process share; plain handlers run on handler threads. After a fork the child's
    client is idle and may be started there.

    Args:
        url: ``ws://`` or ``wss://`` URL, a callable returning one, or :class:`ClientOptions`.
        **options: See :class:`ClientOptions`.

    Raises:
        ConfigurationError: If an option is unknown or cannot work.

    Example::

        client = Client("wss://api.example.com/stream")

        @client.on_message
        def handle(message):
            print(message.data)

        with client:
            client.wait_ready(timeout=10)

    """

    def __init__(self, url: Any = None, /, **options: Any) -> None:
        self.aio = AsyncClient(url, **options)
        self.aio._face = self
        self._loop_use: LoopUse | None = None
        watch_forks(self)

    # --- facts ---

    @property
    def options(self) -> ClientOptions:
        return self.aio.options

    @property
    def handlers(self) -> Handlers:  # type: ignore[override]  # a fact here
        return self.aio.handlers

    @property
    def name(self) -> str:
        return self.aio.name

    @property
    def state(self) -> State:
        return self.aio.state

    @property
    def is_connected(self) -> bool:
        """Messages can be sent and received."""
        return self.aio.is_connected

    @property
    def is_ready(self) -> bool:
        """Connected, and the ``on_ready`` handlers have succeeded."""
        return self.aio.is_ready

    @property
    def error(self) -> BaseException | None:
        """Why the client failed, or with ``fatal_delay`` cannot connect now; else ``None``."""
        return self.aio.error

    @property
    def last_message(self) -> Message | None:
        """The last message received since ``start()``; ``None``: none yet."""
        return self.aio.last_message

    def stats(self) -> Stats:
        """Return a consistent snapshot of all counters since ``start()``."""
        return self.aio.stats()

    def errors(self, timeout: float | None = None) -> Iterator[BaseException]:
        """See :meth:`AsyncClient.errors`; blocks the calling thread between errors."""
        return self.aio._errors.read(timeout)

    # --- start and end ---

    def start(self) -> None:
        """
        Connect, and stay connected, in the background; returns at once.

        Never raises for network trouble. Again: nothing happens; after ``close()``, or once the
        client has failed: it starts anew, with new numbers and counters.
        """
        if not self.state.is_final:
            return
        use = self._loop_use = use_loop(self)
        if use.thread.is_current:
            self._begin(use)
        else:
            use.thread.run(_as_coroutine(lambda: self._begin(use)))

    def _begin(self, use: LoopUse) -> None:
        self.aio._begin(held=False)
        use.finished = self.aio._finished
        assert use.finished is not None
        use.finished.add_done_callback(lambda _: threads().call(lambda: end_loop_use(use)))

    @property
    def _loop_thread(self) -> LoopThread | None:
        return self._loop_use.thread if self._loop_use else None

    def run(self) -> None:
        """
        Start, and block until the client has closed; raises its error if it failed.

        In the main thread the first SIGINT or SIGTERM closes it (what was received is handled),
        a second one does so at once.
        """
        with signals_to(lambda number: self.request_close()):
            self.start()
            self.wait_closed()

    def request_close(self) -> None:
        """Have the client close soon, without waiting; a second request: at once."""
        thread = self._loop_thread
        if thread is not None and not self.state.is_final:
            with suppress(RuntimeError):  # it has just ended, and the loop with it
                thread.loop.call_soon_threadsafe(self.aio.request_close)

    def close(self, timeout: float | None = None) -> None:
        """
        Stop reading, finish what was received, flush, do the close handshake (1000).

        Idempotent; blocks until done. Inside a handler of this client it only requests the stop.

        Args:
            timeout: Seconds for all of it; ``None``: ``close_timeout``. What is unhandled then
                is counted as dropped.

        """
        notice_fork()
        use = self._loop_use
        if use is None or use.finished is None:
            return
        if not use.finished.done():
            self._ask_close(timeout)
            if handling.get() is self or use.thread.is_current:
                return
            use.finished.result()
        if handling.get() is None and not use.thread.is_current:
            end_loop_use(use)

    def _ask_close(self, timeout: float | None) -> None:
        """Have the client close within *timeout* seconds, without waiting."""
        life, thread = self.aio._life, self._loop_thread
        if life is not None and thread is not None and not life.finished.done():
            limit = self.options.close_timeout if timeout is None else timeout
            with suppress(RuntimeError):  # it has just ended, and the loop with it
                thread.loop.call_soon_threadsafe(life.ask_close, limit)

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

    def wait_ready(self, timeout: float | None = None) -> None:
        """See :meth:`AsyncClient.wait_ready`; blocks the calling thread."""
        self._refuse_on_loop("wait_ready")
        try:
            self.aio._ready_or_final().result(timeout)
        except TimeoutError:
            raise TimeoutError(self.aio._not_ready_text(timeout)) from None
        self.aio._raise_unless_ready()

    def wait_closed(self, timeout: float | None = None) -> None:
        """See :meth:`AsyncClient.wait_closed`; blocks the calling thread."""
        self._refuse_on_loop("wait_closed")
        finished = self.aio._finished
        if finished is not None:
            finished.result(timeout)
        self.aio._raise_if_failed()

    def reconnect(self) -> None:
        """Drop the connection, or the wait for the next attempt, and dial anew."""
        self._ask(reconnect=True)

    def pause(self) -> None:
        """Close the connection and stay away until :meth:`resume`; a lease is kept."""
        self._ask(pause=True)

    def resume(self) -> None:
        """Come back from :meth:`pause`."""
        self._ask(pause=False)

    def _ask(self, **word: Any) -> None:
        life = self.aio._running()
        assert self._loop_thread is not None
        self._loop_thread.loop.call_soon_threadsafe(lambda: life.ask(**word))

    # --- sending ---

    def send(self, obj: Any, wait: float = 0.0) -> Queued:
        """
        Queue a message for sending; thread-safe, each thread's order is kept.

        Blocks, at most ``write_timeout``, only while the write queue is above its mark. On the
        loop's own thread (coroutine handlers) it never blocks; await what it returns there.

        Args:
            obj: str for a text frame, bytes for a binary one, else what the codec encodes.
            wait: Seconds to wait for a connection if there is none.

        Raises:
            NotConnectedError: If there is no open connection.
            SendTimeoutError: If the queue stays above its mark.

        """
        frame = self.aio._encode(obj)
        connection = self.aio._connection()
        if self._is_on_loop():
            (connection or self.aio._no_connection()).send(frame)
            return Queued(self.aio, connection)
        if connection is None:
            connection = self._wait_connected(wait)
        if (room := connection.room()) is not None:
            self._wait_for_room(room)
        connection.send(frame)
        return Queued(self.aio, None)

    def _wait_connected(self, wait: float) -> Connection:
        if wait > 0:
            with suppress(TimeoutError):
                self.aio._connected_or_final().result(wait)
        return self.aio._connection() or self.aio._no_connection()

    def _wait_for_room(self, room: Future[None]) -> None:
        try:
            room.result(self.options.write_timeout)
        except SendTimeoutError:
            raise
        except TimeoutError:
            raise self.aio._no_room() from None

    def flush(self, timeout: float | None = None) -> None:
        """See :meth:`AsyncClient.flush`; blocks the calling thread."""
        self._call("flush", self.aio.flush, timeout)

    def request(
        self, obj: Any, match: Callable[[Message], Any], timeout: float | None = 30.0
    ) -> Message:
        """See :meth:`AsyncClient.request`; blocks the calling thread."""
        return self._call("request", self.aio.request, obj, match, timeout)

    def subscribe(self, obj: Any, key: Hashable = None, unsubscribe: Any = None) -> Hashable:
        """See :meth:`AsyncClient.subscribe`; never blocks."""
        return drive(self.aio.subscribe(obj, key, unsubscribe))

    def unsubscribe(self, key: Hashable) -> None:
        """See :meth:`AsyncClient.unsubscribe`; never blocks."""
        drive(self.aio.unsubscribe(key))

    def _call(
        self, verb: str, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> T:
        self._refuse_on_loop(verb)
        self.aio._running()
        assert self._loop_thread is not None
        return self._loop_thread.run(function(*arguments))

    def _is_on_loop(self) -> bool:
        return self._loop_thread is not None and self._loop_thread.is_current

    def _refuse_on_loop(self, verb: str) -> None:
        if self._is_on_loop():
            raise ConfigurationError(
                f"{verb}() would block the event loop: in a coroutine handler use "
                f"await client.aio.{verb}(...)"
            )

    # --- tests and processes ---

    def deliver(self, data: Any, robust: bool = False) -> None:
        """
        Give a message to the handlers, in this thread, without any network; for tests.

        Coroutine handlers run on an event loop of their own meanwhile.

        Args:
            data: str or bytes as received, or an object to be encoded first.
            robust: Report what a handler raises, as in production, instead of raising it.

        """
        if asyncio._get_running_loop() is not None:
            raise ConfigurationError("deliver() in a coroutine: use await client.aio.deliver(...)")
        message = self.aio._made_up(data)
        try:
            drive(HandlerRun(self.handlers, InlineCaller()).deliver(message))
        except Exception as error:
            if not robust:
                raise
            self.aio._report(error, message)

    def forget_parent(self) -> None:
        """In a forked child: the loop's thread is the parent's."""
        self._loop_use = None

    def __repr__(self) -> str:
        return repr(self.aio).replace(type(self.aio).__name__, type(self).__name__, 1)


class Queued(Awaitable[None]):
    """What ``Client.send`` returns; awaiting it on the loop waits for room in the queue."""

    def __init__(self, client: AsyncClient, connection: Connection | None) -> None:
        self._client = client
        self._connection = connection

    def __await__(self) -> Generator[Any, None, None]:
        if self._connection is not None:
            yield from self._client._room(self._connection).__await__()


async def _as_coroutine(function: Callable[[], T]) -> T:
    return function()
