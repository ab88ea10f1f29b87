"""The client for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from .codecs import frame_of
from .connection.connection import Connection
from .connection.engine import Frame
from .connection.subscriptions import Subscription, Subscriptions
from .events import Handshake, State
from .exceptions import ConfigurationError, NotConnectedError, SendTimeoutError
from .forks import bury, notice_fork, watch_forks
from .handlers import Decorators, Handlers
from .handling.budget import Budget
from .handling.callers import LoopCaller
from .handling.current import belongs_here, handling, passes_gate
from .handling.deliver import deliver
from .handling.iteration import Iteration, Messages
from .lease import lease_for
from .lifecycle.assembly import Place, Start
from .lifecycle.commands import CloseFrame, close_frame
from .lifecycle.machine import Lifecycle
from .log_fields import about, fields, write
from .messages import Message, Origin
from .option_types import Options, Url
from .options import ClientOptions
from .process.futures import ErrorBuffer, Observable, wait_for
from .process.loop_use import threads
from .process.loop_watch import WatchedClient, end_watch, watch_loop
from .process.signals import signals_to
from .redaction import hides_arguments, peer_text, shown_urls
from .stats import Stats

__all__ = ["AsyncClient"]

HOW_TO_START = (
    "Call start() first, or use run(), your framework's command or AUTOSTART. "
    "A client can only be used in the process that starts it."
)


class AsyncClient(Decorators):
    """
    A WebSocket stream that stays connected, on the event loop that starts it.

    You can create it in any thread, even before the event loop exists. :meth:`start` binds it to
    the running loop. Its coroutines can also be awaited on other loops. Properties, ``stats()`` and
    decorators can be used from any thread.

    To iterate over messages, use ``async for`` instead of message handlers. A client with message
    handlers can't be iterated over.

    Args:
        url: The option ``url``, or :class:`ClientOptions` that the other options override.
        **options: See :class:`ClientOptions`.

    Attributes:
        options: The options that the client was created with.
        handlers: The registry of handlers and hooks.

    Raises:
        ConfigurationError: If an option is unknown or invalid.

    Example::

        async with AsyncClient("wss://api.example.com/stream") as client:
            async for message in client:
                print(message.data)

    """

    @hides_arguments
    def __init__(
        self, url: Url | ClientOptions | None = None, /, **options: Unpack[Options]
    ) -> None:
        self.options = _options(url, options)
        self.handlers = registry_of(self.options)
        self._face: Any = self  # the client that handlers and hooks see
        self._subscriptions = Subscriptions()
        self._epoch = 0
        self._life: Lifecycle | None = None
        self._budget: Budget | None = None
        self._place: Place | None = None
        self._close_requested = False
        self._begin_anew()
        watch_forks(self)

    def _begin_anew(self) -> None:
        self._state = Observable(State.IDLE)
        limit = self.options.inbox_bytes
        self._errors = ErrorBuffer(size_bytes=None if limit is None else limit // 10)

    # --- facts ---

    @property
    def name(self) -> str:
        """The option ``name``, which logs and metrics use."""
        return self.options.name

    @property
    def key(self) -> Any:
        """The key of a fleet's stream, as its source returned it. ``None`` without a fleet."""
        return None if self._place is None else self._place.key

    @property
    def state(self) -> State:
        """The current state. It's also CLOSED if the event loop has ended."""
        notice_fork()
        state = self._state.value
        if not state.is_final and self._life is not None and self._life.loop.is_closed():
            return State.CLOSED
        return state

    @property
    def is_connected(self) -> bool:
        """Whether messages can be sent and received."""
        return self.state.is_connected and self._open_connection() is not None

    @property
    def is_ready(self) -> bool:
        """Whether the ``on_connect`` and ``on_ready`` hooks of this connection have succeeded."""
        return self.state is State.READY and self._open_connection() is not None

    @property
    def error(self) -> BaseException | None:
        """
        The error that made the client fail. ``None`` if it hasn't failed.

        With ``fatal_delay``, it's the error that prevents a connection at the moment.
        """
        life = self._current()
        return None if life is None else life.error

    @property
    def last_message(self) -> Message | None:
        """
        The last message received since ``start()``. ``None`` before the first one.

        With ``journal``, the spool also has it after a restart. It is ``None`` after unhandled
        messages were dropped because the lease was lost. Then resume from your own store.
        """
        life = self._current()
        return None if life is None else life.inbox.last_message

    @property
    def handshake(self) -> Handshake | None:
        """The subprotocol and headers of the current connection. ``None`` if there is none."""
        connection = self._open_connection()
        return None if connection is None else connection.handshake

    def stats(self) -> Stats:
        """Return a consistent snapshot of all counters since ``start()``."""
        life = self._current()
        return Stats() if life is None else life.stats()

    def errors(self, timeout: float | None = None) -> AsyncIterator[BaseException]:
        """
        Iterate over errors as they occur, until the client has closed.

        Each iteration starts with the errors that are still kept, including those of the network.
        At most 1,000 errors are kept, and at most a tenth of ``inbox_bytes``. The oldest are
        removed first.

        Args:
            timeout: Seconds without an error after which the iteration ends. ``None`` means never.

        """
        notice_fork()
        return self._errors.read_async(timeout)

    # --- start and end ---

    async def start(self) -> None:
        """
        Connect and stay connected in the background, and return without waiting.

        It never raises for network errors. Calling it again has no effect while the client runs.
        After ``close()``, or once the client has failed, it starts with new numbers and counters.

        Raises:
            ConfigurationError: If the package that the lease requires isn't installed.

        """
        self._begin(is_iterable=True)

    def _begin(self, *, is_iterable: bool) -> None:
        """
        Start on the running loop.

        If *is_iterable* is true, messages wait in the inbox while there are no handlers.
        """
        if not self.state.is_final:
            return
        lease = None if self._place else lease_for(self.options.lease, self.name)
        # The import takes a tenth of a second, so it isn't part of `import datastream_ws`. It's
        # done before the client connects, because a child that is forked during an import waits
        # forever for the import lock.
        from .connection.websockets_engine import WebsocketsEngine

        if self.state is not State.IDLE:
            self._begin_anew()
        self._close_requested = False
        self._epoch = max(self._epoch + 1, time.time_ns() // 1_000_000)
        pool = threads()
        life = self._life = Lifecycle(
            Start(
                owner=self._face,
                options=self.options,
                handlers=self.handlers,
                state=self._state,
                errors=self._errors,
                subscriptions=self._subscriptions,
                epoch=self._epoch,
                submit=pool.submit,
                spawn=pool.call,
                wait=pool.rest,
                engine=WebsocketsEngine,
                is_iterable=is_iterable,
                lease=lease,
                budget=self._budget,
                place=self._place,
            )
        )
        pool.hold()
        self.handlers.changed.add(life.dispatcher.use_changed_handlers)
        watched = WatchedClient(self.handlers, life.parts.reporter.warn, life.end_without_loop)
        watch_loop(life.loop, watched)

        def let_go(_: object) -> None:
            end_watch(life.loop, watched)
            self.handlers.changed.discard(life.dispatcher.use_changed_handlers)
            pool.let_go()

        life.finished.add_done_callback(let_go)
        life.begin()

    async def run(self) -> None:
        """
        Start the client, and wait until it has closed.

        In the main thread, the first SIGINT or SIGTERM closes the client, which handles what it
        has received. A second signal closes it immediately. If the task is canceled, the
        client also closes, within ``close_timeout``.

        Raises:
            ConfigurationError: If the package that the lease requires isn't installed.
            Exception: The client's error, if it failed, usually a DataStreamError or OSError.

        """
        loop = asyncio.get_running_loop()
        with signals_to(lambda number: loop.call_soon_threadsafe(self.request_close)):
            await self.start()
            try:
                await self.wait_closed()
            except asyncio.CancelledError:
                await self.close()
                raise

    def request_close(self) -> None:
        """
        Request that the client closes, without waiting. A second request closes immediately.

        You can call it from any thread and from a signal handler.
        """
        if self._life is not None and not self.state.is_final:
            again = self.state is State.CLOSING or self._close_requested
            self._close_requested = True
            life, limit = self._life, 0.0 if again else self.options.close_timeout
            # Never at once, because a signal handler may interrupt the loop anywhere. Only this
            # also wakes a loop that waits for events.
            with suppress(RuntimeError):  # the loop is closed
                life.loop.call_soon_threadsafe(lambda: life.commands.close(limit))

    def _ask_close(self, timeout: float | None, final_frame: CloseFrame | None = None) -> float:
        """Request the close from any thread, and return the seconds that it may take."""
        limit = self.options.close_timeout if timeout is None else timeout
        life = self._life
        if life is not None and not life.finished.done():
            with suppress(NotConnectedError):  # the client has just ended, and its loop too
                self._on_loop(life, lambda: life.commands.close(limit, final_frame))
        return limit

    async def close(self, timeout: float | None = None, code: int = 1000, reason: str = "") -> None:
        """
        Stop reading, handle what was received, write what is queued, and close the connection.

        It always returns within *timeout* + 1 seconds. Calling it again has no effect. Inside a
        handler of this client, it requests the shutdown and returns. A task that iterates over the
        client can't take more messages, so they stay in the spool, or are counted as dropped.

        Args:
            timeout: Seconds for all of it. ``None`` means ``close_timeout``. Messages that are
                unhandled then stay in the spool, or are counted as dropped if there is none.
            code: The close code that the server receives: 1000, 1001, or from 3000 to 4999.
            reason: The reason that the server receives, at most 123 bytes in UTF-8.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.

        """
        life = self._current()
        if life is None or life.finished.done():
            return
        limit = self._ask_close(timeout, close_frame(code, reason))
        if handling.get() is self._face:
            return
        if asyncio.get_running_loop() is life.loop:  # the only one with iterators
            life.dispatcher.iteration.leave()
        try:
            await wait_for(life.finished, limit + 1.0)
        except TimeoutError:
            text = "not closed within %g s; its event loop is blocked or stopped"
            self._log("warning", text, limit + 1.0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    if not TYPE_CHECKING:  # so that type checkers report `with AsyncClient(…)`

        def __enter__(self) -> Any:
            raise TypeError("use `async with AsyncClient(…)` in a coroutine, or `with Client(…)`")

        def __exit__(self, *exception: object) -> None: ...

    async def wait_ready(self, timeout: float | None = None) -> None:
        """
        Wait until the client is ready.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If it isn't ready in time.
            NotConnectedError: If the client isn't started, or closes while waiting.
            Exception: The client's error, once it has failed, usually a DataStreamError or OSError.

        """
        try:
            await wait_for(self._ready_or_final(), timeout)
        except TimeoutError:
            raise TimeoutError(self._not_ready_text(timeout)) from None
        self._raise_unless_ready()

    def _ready_or_final(self) -> Future[State]:
        """Return a future that is done once the client is ready or its state is final."""
        notice_fork()
        # The state still shows a connection that has ended while `retry` decides what follows.
        lags = self._state.value is State.READY and self._open_connection() is None

        def is_reached(state: State) -> bool:
            nonlocal lags
            lags = lags and state is State.READY
            return state.is_final or (state is State.READY and not lags)

        return self._state.when(is_reached)

    def _not_ready_text(self, timeout: float | None) -> str:
        last = self.stats().last_error
        why = f" Last error: {peer_text(last)}" if last else ""
        return f"stream {self.name} is {self.state.value}, not ready, after {timeout} s.{why}"

    def _raise_unless_ready(self) -> None:
        """Raise the client's error if it failed, or NotConnectedError if it isn't running."""
        self._raise_if_failed()
        self._running()

    async def wait_closed(self, timeout: float | None = None) -> None:
        """
        Wait until the client has closed. It returns immediately if the client was never started.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If it hasn't closed in time.
            Exception: The client's error, once it has failed, usually a DataStreamError or OSError.

        """
        finished = self._finished
        if finished is not None:
            try:
                await wait_for(finished, timeout)
            except TimeoutError:
                raise TimeoutError(self._not_closed_text(timeout)) from None
        self._raise_if_failed()

    def _not_closed_text(self, timeout: float | None) -> str:
        return f"stream {self.name} is {self.state.value}, not closed, after {timeout} s."

    @property
    def _finished(self) -> Future[None] | None:
        """A future for the end of the client and its hooks. ``None`` if it isn't started."""
        life = self._current()
        return None if life is None else life.finished

    def _raise_if_failed(self) -> None:
        if self.state is State.FAILED and self.error is not None:
            raise self.error

    def _current(self) -> Lifecycle | None:
        """Return what the latest ``start()`` in this process has made. ``None`` without one."""
        notice_fork()
        return self._life

    def _running(self) -> Lifecycle:
        if self._life is None or self.state.is_final:
            raise NotConnectedError(
                f"stream {self.name} is {self.state.value} in this process. {HOW_TO_START}"
            )
        return self._life

    # --- from any loop and thread ---

    def _on_loop(self, life: Lifecycle, function: Callable[[], None]) -> None:
        """Call *function* on the client's loop, and at once if this is its thread."""
        if asyncio._get_running_loop() is life.loop:
            function()
            return
        try:
            life.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            raise NotConnectedError(
                f"stream {self.name}: the event loop it was started on is closed. {HOW_TO_START}"
            ) from None

    async def reconnect(self, code: int = 1000, reason: str = "") -> None:
        """
        Drop the connection, or the wait for the next attempt, and connect again.

        It doesn't wait for the end of this connection or for the next one, so an inline handler
        may call it. It doesn't count as a failed attempt, and has no effect while the client is
        paused.

        Args:
            code: The close code that the server receives: 1000, 1001, or from 3000 to 4999.
            reason: The reason that the server receives, at most 123 bytes in UTF-8.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.
            NotConnectedError: If the client isn't running.

        """
        self._ask_reconnect(code, reason)

    def _ask_reconnect(self, code: int, reason: str) -> None:
        life, how = self._running(), close_frame(code, reason)
        self._on_loop(life, lambda: life.commands.reconnect(how))

    async def pause(self, code: int = 1000, reason: str = "") -> None:
        """
        Close the connection and stay offline until :meth:`resume` is called. A lease is kept.

        It never waits. Calling it again has no effect.

        Args:
            code: The close code that the server receives: 1000, 1001, or from 3000 to 4999.
            reason: The reason that the server receives, at most 123 bytes in UTF-8.

        Raises:
            ConfigurationError: If *code* or *reason* can't be sent.
            NotConnectedError: If the client isn't running.

        """
        self._ask_pause(code, reason)

    def _ask_pause(self, code: int, reason: str) -> None:
        life, how = self._running(), close_frame(code, reason)
        self._on_loop(life, lambda: life.commands.pause(how))

    async def resume(self) -> None:
        """
        Connect again after :meth:`pause`, without waiting for the connection.

        It has no effect unless the client is paused.

        Raises:
            NotConnectedError: If the client isn't running.

        """
        self._ask_resume()

    def _ask_resume(self) -> None:
        life = self._running()
        self._on_loop(life, life.commands.resume)

    # --- sending ---

    async def send(self, obj: Any, wait: float = 0.0) -> None:
        """
        Queue a message for sending. Messages of one task keep their order.

        It waits, at most ``write_timeout``, only while the write queue is full or ``send_rate``
        holds it back.

        Args:
            obj: A str becomes a text frame, and bytes become a binary frame. The codec encodes
                any other object.
            wait: Seconds to wait for a connection if there is none.

        Raises:
            EncodeError, TypeError: If the codec can't encode *obj*.
            NotConnectedError: If there is no open connection.
            SendTimeoutError: If the queue stays full.

        """
        frame = self._encode(obj)
        connection = self._connection()
        if connection is None:
            connection = await self._wait_connected(wait)
        await self._room(connection)
        self._send(connection, frame)

    def _send(self, connection: Connection, frame: Frame) -> None:
        connection.send(frame, passes_gate=passes_gate(self._face))

    async def _wait_connected(self, wait: float) -> Connection:
        until = time.monotonic() + wait
        while (change := self._change_before(until)) is not None:
            with suppress(TimeoutError):
                await wait_for(change, until - time.monotonic())
        return self._connection() or self._refuse(wait)

    def _change_before(self, until: float) -> Future[State] | None:
        """Return the next change to wait for, or ``None`` if no change can help."""
        is_over = time.monotonic() >= until or self.state.is_final
        if is_over or self._open_connection() is not None:
            return None
        # If the state still shows the connection that has ended, wait for that to change first.
        lagging = self._state.value.is_connected
        return self._state.when(lambda state: state.is_final or state.is_connected is not lagging)

    async def _room(self, connection: Connection) -> None:
        """Wait until the write queue has room."""
        room = connection.room(passes_gate=passes_gate(self._face))
        if room is not None:
            try:
                await wait_for(room, self.options.write_timeout)
            except SendTimeoutError:
                raise
            except TimeoutError:
                raise self._no_room() from None
            finally:
                room.cancel()  # so that it takes no other sender's turn

    def _no_room(self) -> SendTimeoutError:
        limit = self.options.write_timeout
        return SendTimeoutError(
            f"stream {self.name}: the write queue is still full after write_timeout ({limit:g} s)"
        )

    def _connection(self) -> Connection | None:
        """Return the open connection, unless the caller is a hook of an earlier one."""
        connection = self._open_connection()
        if connection is None or not belongs_here(self._face, connection):
            return None
        return connection

    def _open_connection(self) -> Connection | None:
        """Return the open connection, or ``None``. It's thread-safe."""
        notice_fork()
        connection = self._life.connection if self._life else None
        return connection if connection is not None and connection.is_open else None

    def _refuse(self, waited: float = 0.0) -> NoReturn:
        """Raise a NotConnectedError with what to do, after a wait of *waited* seconds."""
        self._running()
        if self._open_connection() is not None:
            raise NotConnectedError(
                f"stream {self.name}: the connection that this hook was called for has ended. The "
                "hook is called again for the next connection."
            )
        if waited > 0:
            raise NotConnectedError(
                f"stream {self.name} is {self.state.value}: no connection within {waited:g} s"
            )
        lags = self.state.is_connected
        fact = "has just lost its connection" if lags else f"is {self.state.value}"
        raise NotConnectedError(
            f"stream {self.name} {fact}. Pass wait=SECONDS to send() to wait for a connection."
        )

    def _encode(self, obj: Any) -> Frame:
        """Return an outgoing message as a frame, encoded in the calling thread."""
        return frame_of(obj, self.options.codec)

    async def flush(self, timeout: float | None = None) -> None:
        """
        Wait until every queued message is written.

        Args:
            timeout: Seconds to wait. ``None`` means no limit.

        Raises:
            TimeoutError: If messages are still unsent then.
            NotConnectedError: If there is no connection, or it is lost while waiting.
            SendTimeoutError: If nothing could be written for ``write_timeout``.

        """
        try:
            await wait_for(self._flushed(), timeout, self._finished)
        except TimeoutError as error:
            raise self._not_flushed(error, timeout) from None

    def _flushed(self) -> Future[None]:
        connection = self._connection() or self._refuse()
        flushed = connection.flushed(passes_gate=passes_gate(self._face))
        if flushed is None:
            raise NotConnectedError(f"stream {self.name}: the connection has just been lost")
        return flushed

    def _not_flushed(self, error: TimeoutError, timeout: float | None) -> TimeoutError:
        """Return the error of a flush. The queue's own SendTimeoutError is passed on."""
        if isinstance(error, SendTimeoutError):
            return error
        return TimeoutError(f"stream {self.name}: messages are still unsent after {timeout} s")

    async def request(
        self, obj: Any, match: Callable[[Message], Any], timeout: float | None = 30.0
    ) -> Message:
        """
        Send *obj* and return the first message after it for which ``match(message)`` is true.

        Handlers get that message, too.

        Args:
            obj: As for :meth:`send`.
            match: It runs on the loop's thread, so keep it short.
            timeout: Seconds to wait. ``None`` waits as long as the connection lives.

        Raises:
            TimeoutError: If no such message arrives in time.
            NotConnectedError: If there is no connection, or it is lost before the reply.
            Exception: Any exception that *match* raises.

        """
        frame = self._encode(obj)
        connection = self._connection() or self._refuse()
        await self._room(connection)
        send = self._sender(connection, frame)
        return await self._first_message(connection, match, timeout, send)

    def _sender(self, connection: Connection, frame: Frame) -> Callable[[], None]:
        """Return a function that queues *frame* later, on behalf of the hook that runs now."""
        passes = passes_gate(self._face)
        return lambda: connection.send(frame, passes_gate=passes)

    async def receive(
        self, match: Callable[[Message], Any] | None = None, timeout: float | None = 30.0
    ) -> Message:
        """
        Return the next message for which ``match(message)`` is true, without sending anything.

        In ``on_connect`` and ``on_ready`` it starts with the first message of that connection.
        Handlers get the message, too.

        Args:
            match: It runs on the loop's thread, so keep it short. ``None`` takes any message.
            timeout: Seconds to wait. ``None`` waits as long as the connection lives.

        Raises:
            TimeoutError: If no such message arrives in time.
            NotConnectedError: If there is no connection, or it is lost before the message.
            Exception: Any exception that *match* raises.

        """
        connection = self._connection() or self._refuse()
        return await self._first_message(connection, match, timeout, None)

    async def _first_message(
        self,
        connection: Connection,
        match: Callable[[Message], Any] | None,
        timeout: float | None,
        send: Callable[[], None] | None,
    ) -> Message:
        life = self._running()

        async def first() -> Message:
            if not connection.is_open:  # lost on the way here, and the next one has other messages
                raise NotConnectedError("the connection has just been lost")
            return await life.intake.requests.first(match, send, timeout)

        if asyncio.get_running_loop() is life.loop:
            return await first()
        future = asyncio.run_coroutine_threadsafe(first(), life.loop)
        # If the client's loop is blocked or stopped, the timeout there never fires.
        limit = None if timeout is None else max(0.0, timeout) + 1.0
        try:
            return await wait_for(future, limit, life.finished)
        except TimeoutError:
            if future.done():
                raise
            raise self._unanswered(timeout) from None
        finally:
            if not life.loop.is_closed():
                future.cancel()

    def _unanswered(self, timeout: float | None) -> Exception:
        """Return the error of a wait that the client's loop didn't end in time."""
        if timeout is None or self.state.is_final:
            return NotConnectedError(f"stream {self.name}: the client closed before the reply")
        return TimeoutError(
            f"stream {self.name}: no message within {timeout:g} s, because the client's event loop "
            "is blocked or stopped"
        )

    async def subscribe(self, obj: Any, key: Hashable = None, unsubscribe: Any = None) -> Hashable:
        """
        Send *obj* now, and again on every connection, between ``on_connect`` and ``on_ready``.

        It never waits. The messages are written as the connection accepts them. You can call it
        before :meth:`start`. Calling it again with the same arguments has no effect.

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
        return self._subscribe(obj, key, unsubscribe)

    def _subscribe(self, obj: Any, key: Hashable, unsubscribe: Any) -> Hashable:
        notice_fork()
        content = obj if callable(obj) else self._encode(obj)
        key = content if key is None else key
        is_made = unsubscribe is None or callable(unsubscribe)
        ending = unsubscribe if is_made else self._encode(unsubscribe)
        self._subscriptions.add(Subscription(key, content, ending))
        return key

    async def unsubscribe(self, key: Hashable) -> None:
        """
        End a subscription, and send its unsubscribe message if there is one.

        It never waits. An unknown key has no effect.
        """
        self._unsubscribe(key)

    def _unsubscribe(self, key: Hashable) -> None:
        notice_fork()
        self._subscriptions.remove(key)

    # --- receiving ---

    def __aiter__(self) -> AsyncIterator[Message]:
        """
        Iterate over the messages of all connections, instead of using handlers.

        The iteration ends when the client closes. If the client fails, the iteration raises its
        error.

        Raises:
            ConfigurationError: If message handlers are registered, or on another event loop than
                the client's.

        """
        if self.handlers.has_message_handlers:
            raise ConfigurationError(
                "on_message: a client with handlers cannot be iterated over. Use either handlers "
                "or `async for`."
            )
        return Messages(self._iterated, self._raise_if_failed)

    def _iterated(self) -> tuple[Iteration, Future[None]]:
        life = self._running()
        return life.dispatcher.iteration, life.finished

    async def deliver(self, data: Any, robust: bool = False) -> None:
        """
        Pass a message to the handlers on this event loop, without a network.

        Use it in tests. It returns when the handlers have finished, and needs no :meth:`start`.

        Args:
            data: A str or bytes as received. Any other object is encoded first.
            robust: ``True`` reports a handler's exception, as in production. ``False`` raises it.

        """
        message = self._made_up(data)
        caller, report = LoopCaller(asyncio.Event()), self._report_delivered
        await deliver(self.handlers, message, caller, robust=robust, report=report)

    def _made_up(self, data: Any) -> Message:
        """Return a message for ``deliver()``, which has no connection."""
        is_text, payload = self._encode(data)
        codec: Any = self.options.codec
        key = None if self._place is None else self._place.key
        origin = Origin(self.name, 0, self._epoch, codec, self.options.route, key=key)
        return Message(payload.decode() if is_text else payload, origin, 1, time.time())

    def _report_delivered(self, error: BaseException) -> None:
        """Log an exception that a handler raised for a delivered message, and keep it."""
        self._log("error", "%s", error, exc_info=error)
        self._errors.put(error)

    def _log(
        self, level: str, text: str, *arguments: Any, exc_info: BaseException | None = None
    ) -> None:
        extra = fields(self.name, **about(exc_info))
        text, name = f"stream %s: {text}", peer_text(self.name)
        write(self.options.logger, level, text, name, *arguments, exc_info=exc_info, extra=extra)

    # --- the process ---

    def _forget_parent(self) -> None:
        """Reset this client to idle in a forked child, without touching the parent's connection."""
        life, self._life = self._life, None
        self._begin_anew()
        self._subscriptions.renew_lock()
        if life is not None:
            bury(life, life.abandon())

    def __repr__(self) -> str:
        kind = type(self).__name__
        if "_state" not in vars(self):  # __init__ failed, and a traceback shows its frames
            return f"<{kind}>"
        where = shown_urls(self.options.url)
        return f"<{kind} {peer_text(self.name)}: {where}, {self.state.value}>"


def _options(url: Any, options: Mapping[str, Any]) -> ClientOptions:
    if isinstance(url, ClientOptions):
        return url.replace(**options) if options else url
    return ClientOptions(**(options if url is None else {"url": url, **options}))


def registry_of(options: ClientOptions) -> Handlers:
    """
    Return the registry of a client or fleet.

    It's the shared registry if no handler is given as an option. Otherwise it's a new one that
    follows the shared one, because handlers in options belong to one client.
    """
    shared = options.handlers
    on_message: Any = options.message_handler
    on_ready: Any = options.connection_ready_handler
    if shared is not None and on_message is None and on_ready is None:
        return shared
    handlers = Handlers() if shared is None else type(shared)()
    if on_message is not None:
        handlers.on_message(getattr(on_message, "handle_message", on_message))
    if on_ready is not None:
        handlers.on_ready(getattr(on_ready, "on_connection_ready", on_ready))
    if shared is not None:
        handlers.follow(shared)
    return handlers
