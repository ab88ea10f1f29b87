"""The client for asyncio: the verbs and facts of a stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

from .codecs import frame_of
from .connection.connection import Connection
from .connection.engine import Frame
from .connection.subscriptions import Subscriptions
from .events import State
from .exceptions import ConfigurationError, NotConnectedError, SendTimeoutError
from .handlers import Decorators, Handlers
from .handling.budget import Budget
from .handling.callers import LoopCaller
from .handling.current import belongs_here, handling
from .handling.deliver import deliver
from .handling.iteration import Iteration, Messages
from .lease import lease_for
from .lifecycle.machine import Lifecycle
from .log_fields import about, fields, write
from .messages import Message, Origin
from .options import ClientOptions, Options, Url
from .process.forks import bury, notice_fork, watch_forks
from .process.futures import ErrorBuffer, Observable, wait_for
from .process.handler_threads import HandlerThreads
from .process.loop_use import threads
from .process.signals import signals_to
from .redaction import peer_text, shown_url
from .stats import Stats

__all__ = ["AsyncClient"]

HOW_TO_START = (
    "start it with start(), with run() in a process of its own, or with your framework's "
    "command or AUTOSTART; a client lives in the process that started it"
)


class AsyncClient(Decorators):
    """
    A WebSocket stream that stays connected, on the event loop that starts it.

    Made in any thread, before or after the loop; :meth:`start` binds it to the running loop.
    Coroutines belong on that loop; facts and decorators may be used from any thread.

    Args:
        url: The option ``url``, or :class:`ClientOptions` that the others are changes to.
        **options: See :class:`ClientOptions`.

    Raises:
        ConfigurationError: If an option is unknown or cannot work.

    Example::

        async with AsyncClient("wss://api.example.com/stream") as client:
            async for message in client:
                print(message.data)

    """

    def __init__(
        self, url: Url | ClientOptions | None = None, /, **options: Unpack[Options]
    ) -> None:
        self.options = _options(url, options)
        self.handlers = _handlers(self.options)
        self._face: Any = self  # what handlers know as their client
        self._subscriptions = Subscriptions()
        self._epoch = 0
        self._life: Lifecycle | None = None
        self._budget: Budget | None = None
        self._begin_anew()
        watch_forks(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._state: Observable[State] = Observable(State.IDLE)
        self._errors: ErrorBuffer = ErrorBuffer()

    # --- facts ---

    @property
    def name(self) -> str:
        return self.options.name

    @property
    def state(self) -> State:
        notice_fork()
        return self._state.value

    @property
    def is_connected(self) -> bool:
        """Messages can be sent and received."""
        return self.state.is_connected

    @property
    def is_ready(self) -> bool:
        """Connected, and the ``on_ready`` handlers have succeeded."""
        return self.state is State.READY

    @property
    def error(self) -> BaseException | None:
        """Why the client failed, or with ``fatal_delay`` cannot connect now; else ``None``."""
        return self._life.error if self._life else None

    @property
    def last_message(self) -> Message | None:
        """The last message received since ``start()``; ``None``: none yet."""
        return self._life.inbox.last_message if self._life else None

    def stats(self) -> Stats:
        """Return a consistent snapshot of all counters since ``start()``."""
        notice_fork()
        return self._life.stats() if self._life else Stats()

    def errors(self, timeout: float | None = None) -> AsyncIterator[BaseException]:
        """
        Iterate over errors as they come, the network's too; ends when the client has closed.

        Each iteration sees all errors that are still kept (the last 1,000).

        Args:
            timeout: End after this many seconds without an error; ``None``: never.

        """
        return self._errors.read_async(timeout)

    # --- start and end ---

    async def start(self) -> None:
        """
        Connect, and stay connected, in the background; returns at once.

        Never raises for network trouble. Again: nothing happens; after ``close()``, or once the
        client has failed: it starts anew, with new numbers and counters.
        """
        self._begin(held=True)

    def _begin(self, *, held: bool) -> None:
        """Start on the running loop; *held*: messages wait while there are no handlers."""
        if not self.state.is_final:
            return
        lease = lease_for(self.options.lease, self.name)
        # Imported now, a tenth of a second the first time: a child of a fork amid an import waits
        # for ever when it imports the same.
        from .connection.websockets_engine import WebsocketsEngine

        if self.state is not State.IDLE:
            self._begin_anew()
        self._close_requested = False
        self._epoch = max(self._epoch + 1, time.time_ns() // 1_000_000)
        pool = threads()
        pool.hold()
        life = self._life = Lifecycle(
            owner=self._face,
            options=self.options,
            handlers=self.handlers,
            state=self._state,
            errors=self._errors,
            subscriptions=self._subscriptions,
            epoch=self._epoch,
            submit=pool.submit,
            spawn=pool.call,
            engine=WebsocketsEngine,
            held=held,
            lease=lease,
            budget=self._budget,
        )
        self.handlers.added.add(life.dispatcher.wake)
        life.finished.add_done_callback(lambda _: self._let_go(life, pool))
        life.begin()

    def _let_go(self, life: Lifecycle, pool: HandlerThreads) -> None:
        self.handlers.added.discard(life.dispatcher.wake)
        pool.let_go()

    async def run(self) -> None:
        """
        Start, and wait until the client has closed; raises its error if it failed.

        In the main thread the first SIGINT or SIGTERM closes it (what was received is handled),
        a second one does so at once.
        """
        loop = asyncio.get_running_loop()
        with signals_to(lambda number: void(loop.call_soon_threadsafe(self.request_close))):
            await self.start()
            await self.wait_closed()

    def request_close(self) -> None:
        """Have the client close soon; a second request: at once. On its loop's thread."""
        if self._life is not None and not self.state.is_final:
            again = self.state is State.CLOSING or self._close_requested
            self._close_requested = True
            self._life.ask_close(0.0 if again else self.options.close_timeout)

    _close_requested = False

    async def close(self, timeout: float | None = None) -> None:
        """
        Stop reading, finish what was received, flush, do the close handshake (1000).

        Idempotent. Inside a handler of this client it only requests the stop.

        Args:
            timeout: Seconds for all of it; ``None``: ``close_timeout``. What is unhandled then
                is counted as dropped.

        """
        life = self._life
        if life is None:
            return
        if not life.finished.done():
            life.ask_close(self.options.close_timeout if timeout is None else timeout)
            if handling.get() is not self._face:
                await wait_for(life.finished, None)

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

    async def wait_ready(self, timeout: float | None = None) -> None:
        """
        Wait until the client is ready.

        Raises:
            TimeoutError: After *timeout* seconds; ``None``: wait for ever.
            NotConnectedError: If it is not started, or closes meanwhile.
            DataStreamError, OSError: The client's error, once it has failed.

        """
        try:
            await wait_for(self._ready_or_final(), timeout)
        except TimeoutError:
            raise TimeoutError(self._not_ready_text(timeout)) from None
        self._raise_unless_ready()

    def _ready_or_final(self) -> Future[State]:
        """Return a future of READY, or of a state in which nothing happens any more."""
        return self._state.when(lambda state: state is State.READY or state.is_final)

    def _not_ready_text(self, timeout: float | None) -> str:
        why = f": {peer_text(self.stats().last_error)}" if self.stats().last_error else ""
        return f"stream {self.name} is not ready after {timeout} s but {self.state.value}{why}"

    def _raise_unless_ready(self) -> None:
        """Raise the client's error if it failed, NotConnectedError if it is not running."""
        if self.state is State.FAILED and self.error is not None:
            raise self.error
        if self.state.is_final:
            raise NotConnectedError(f"stream {self.name} is {self.state.value}: {HOW_TO_START}")

    async def wait_closed(self, timeout: float | None = None) -> None:
        """
        Wait until the client has closed.

        Raises:
            TimeoutError: After *timeout* seconds; ``None``: wait for ever.
            DataStreamError, OSError: The client's error, once it has failed.

        """
        if self._life is not None:
            await wait_for(self._life.finished, timeout)
        self._raise_if_failed()

    @property
    def _finished(self) -> Future[None] | None:
        """Done once the client has closed or failed, hooks included; ``None``: not started."""
        return self._life.finished if self._life else None

    def _raise_if_failed(self) -> None:
        if self.state is State.FAILED and self.error is not None:
            raise self.error

    def _running(self) -> Lifecycle:
        if self._life is None or self.state.is_final:
            raise NotConnectedError(f"stream {self.name} is {self.state.value}: {HOW_TO_START}")
        return self._life

    async def reconnect(self) -> None:
        """Drop the connection, or the wait for the next attempt, and dial anew."""
        self._running().ask(reconnect=True)

    async def pause(self) -> None:
        """Close the connection and stay away until :meth:`resume`; a lease is kept."""
        self._running().ask(pause=True)

    async def resume(self) -> None:
        """Come back from :meth:`pause`."""
        self._running().ask(pause=False)

    # --- sending ---

    async def send(self, obj: Any, wait: float = 0.0) -> None:
        """
        Queue a message for sending.

        Waits, at most ``write_timeout``, only while the write queue is above its mark.

        Args:
            obj: str for a text frame, bytes for a binary one, else what the codec encodes.
            wait: Seconds to wait for a connection if there is none.

        Raises:
            NotConnectedError: If there is no open connection.
            SendTimeoutError: If the queue stays above its mark.

        """
        frame = self._encode(obj)
        connection = self._connection()
        if connection is None:
            await self._wait_connected(wait)
            connection = self._connection() or self._no_connection()
        await self._room(connection)
        connection.send(frame)

    async def _wait_connected(self, wait: float) -> None:
        if wait > 0:
            try:
                await wait_for(self._connected_or_final(), wait)
            except TimeoutError:
                return

    def _connected_or_final(self) -> Future[State]:
        return self._state.when(lambda state: state.is_connected or state.is_final)

    async def _room(self, connection: Connection) -> None:
        """Wait until the write queue is below its mark."""
        room = connection.room()
        if room is not None:
            try:
                await wait_for(room, self.options.write_timeout)
            except SendTimeoutError:
                raise
            except TimeoutError:
                raise self._no_room() from None

    def _no_room(self) -> SendTimeoutError:
        limit = self.options.write_timeout
        return SendTimeoutError(f"the write queue is still full after write_timeout ({limit:g} s)")

    def _connection(self) -> Connection | None:
        """Return the open connection, unless the caller is a hook of an earlier one."""
        connection = self._open_connection()
        if connection is None or not belongs_here(self._face, connection):
            return None
        return connection

    def _open_connection(self) -> Connection | None:
        """Return the open connection, if there is one; from any thread."""
        notice_fork()
        connection = self._life.connection if self._life else None
        return connection if connection is not None and connection.is_open else None

    def _no_connection(self) -> Connection:
        """Raise the NotConnectedError that says what to do."""
        if self.state.is_final:
            raise NotConnectedError(
                f"stream {self.name} is {self.state.value} in this process: {HOW_TO_START}"
            )
        if self._open_connection() is not None:
            raise NotConnectedError(
                f"stream {self.name}: the connection this hook was called for has ended, and it is "
                "called again for the next one"
            )
        raise NotConnectedError(
            f"stream {self.name} is {self.state.value}: pass wait=SECONDS to send() to wait for "
            "a connection"
        )

    def _encode(self, obj: Any) -> Frame:
        """Return an outgoing message as a frame; in the calling thread."""
        return frame_of(obj, self.options.codec)

    async def flush(self, timeout: float | None = None) -> None:
        """
        Wait until everything queued is written.

        Raises:
            TimeoutError: After *timeout* seconds; ``None``: wait for ever.
            NotConnectedError: If the connection is lost before, or there is none.

        """
        connection = self._connection() or self._no_connection()
        async with asyncio.timeout(timeout):
            await connection.flush()

    async def request(
        self, obj: Any, match: Callable[[Message], Any], timeout: float | None = 30.0
    ) -> Message:
        """
        Send *obj* and return the first message from then on for which ``match(message)`` holds.

        The message reaches the handlers too. *match* runs on the loop's thread: keep it short.

        Raises:
            TimeoutError: After *timeout* seconds; ``None``: wait as long as the connection.
            NotConnectedError: If there is no connection, or it drops before the reply.

        """
        frame = self._encode(obj)
        connection = self._connection() or self._no_connection()
        await self._room(connection)
        requests = self._running().intake.requests
        return await requests.first(match, lambda: connection.send(frame), timeout)

    async def subscribe(self, obj: Any, key: Hashable = None, unsubscribe: Any = None) -> Hashable:
        """
        Send *obj* now and again on every connection, before ``on_ready``.

        May be called before :meth:`start`.

        Args:
            key: Names the subscription; the same key again takes its place. ``None``: the
                encoded message.
            unsubscribe: What :meth:`unsubscribe` sends; ``None``: nothing.

        Returns:
            The key.

        """
        frame = self._encode(obj)
        key = frame if key is None else key
        ending = None if unsubscribe is None else self._encode(unsubscribe)
        self._subscriptions.add(key, frame, ending)
        self._send_if_connected(frame)
        return key

    async def unsubscribe(self, key: Hashable) -> None:
        """End a subscription; an unknown key is no error."""
        ending = self._subscriptions.remove(key)
        if ending is not None:
            self._send_if_connected(ending)

    def _send_if_connected(self, frame: Frame) -> None:
        connection = self._open_connection()
        if connection is not None:
            with suppress(NotConnectedError):  # the next connection sends it
                connection.send(frame)

    # --- receiving ---

    def __aiter__(self) -> AsyncIterator[Message]:
        """
        Iterate over the messages, across reconnections, in the place of handlers.

        Ends when the client closes; raises its error once it has failed.

        Raises:
            ConfigurationError: If message handlers are registered too.

        """
        if self.handlers.has_message_handlers:
            raise ConfigurationError(
                "on_message: a client has handlers or is iterated over, not both"
            )
        return Messages(self._iterated, self._raise_if_failed)

    def _iterated(self) -> tuple[Iteration, Future[None]]:
        life = self._running()
        return life.dispatcher.iteration, life.finished

    async def deliver(self, data: Any, robust: bool = False) -> None:
        """
        Give a message to the handlers, here and now, without any network; for tests.

        Args:
            data: str or bytes as received, or an object to be encoded first.
            robust: Report what a handler raises, as in production, instead of raising it.

        """
        message = self._made_up(data)
        caller, report = LoopCaller(asyncio.Event()), self._report_delivered
        await deliver(self.handlers, message, caller, robust=robust, report=report)

    def _made_up(self, data: Any) -> Message:
        """Return a message that came over no connection."""
        is_text, payload = self._encode(data)
        codec: Any = self.options.codec
        origin = Origin(self.name, 0, self._epoch, codec, self.options.route)
        return Message(payload.decode() if is_text else payload, origin, 1, time.time())

    def _report_delivered(self, error: BaseException) -> None:
        """Report what a handler raised for a delivered message."""
        extra = fields(self.name, **about(error))
        write(
            self.options.logger, "error", "stream %s: %s", self.name, error,
            exc_info=error, extra=extra,
        )  # fmt: skip
        self._errors.put(error)

    # --- the process ---

    def forget_parent(self) -> None:
        """In a forked child: be idle again, without touching what is the parent's."""
        life, self._life = self._life, None
        self._begin_anew()
        self._subscriptions.renew_lock()
        if life is not None:
            bury(life, life.abandon())

    def __repr__(self) -> str:
        url = self.options.url
        where = shown_url(url) if isinstance(url, str) else "(callable)"
        return f"<{type(self).__name__} {peer_text(self.name)}: {where}, {self.state.value}>"


def _options(url: Any, options: Mapping[str, Any]) -> ClientOptions:
    if isinstance(url, ClientOptions):
        return url.replace(**options) if options else url
    return ClientOptions(**(options if url is None else {"url": url, **options}))


def _handlers(options: ClientOptions) -> Handlers:
    """
    Return the registry of a client: the shared one, or one of its own that follows it.

    The handlers that were given as options are the client's own.
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


def void(_: Any) -> None:
    """Drop a result."""
