"""
``datastreams[alias]``, the object on which you register handlers, send, start and read the state.

A stream object is created when its name is first used, and exists as long as the process. Its
settings are read and its client is built on first use of anything except decorators.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

from django.db import transaction

from datastream_ws import Client, Handlers
from datastream_ws.embedding import Decorators, fields, in_child

from .conf import StreamSettings, streams_settings
from .db import Hygiene
from .delivery import deliver

__all__ = ["Stream", "Streams", "datastream", "datastreams"]

log = logging.getLogger("datastream_ws")


# Attributes that only fleets have.
OF_FLEETS = ("counts", "is_running", "source_size")

if TYPE_CHECKING:
    from datastream_ws import Fleet

    Face = Client  # so that editors find the attributes that __getattr__ returns
else:
    Face = Decorators


class Stream(Face):
    """
    A stream of ``DATASTREAMS``, with every decorator and method of :class:`datastream_ws.Client`.

    If its settings have ``SOURCE``, it is a fleet and has the methods of
    :class:`datastream_ws.Fleet`. ``datastreams["accounts"][42]`` is the client of one stream.

    Decorators work immediately. All other attributes are those of the client, which is created on
    first use, once per process. Invalid settings raise ImproperlyConfigured at that time. Handlers
    can use the ORM.

    Attributes:
        alias: The stream's key in ``DATASTREAMS``.
        handlers: The registry that the decorators use.

    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.handlers = Handlers()  # type: ignore[misc]  # a property, to mypy
        self.hygiene = Hygiene()  # cleans up database connections around handlers
        self._lock = threading.RLock()
        self._client: Client | Fleet | None = None
        self._from_settings: list[Callable[..., Any]] = []
        self._is_atomic = False
        self.handlers.use(self.hygiene.run, per="run")
        self.handlers.on_state(self._note_state)
        # handlers that are registered on every stream, such as those of signals
        self.for_every_stream: list[Callable[..., Any]] = []
        in_child(self.renew_lock)

    # --- the client ---

    @property
    def settings(self) -> StreamSettings:
        """
        The settings of the stream.

        Raises:
            ImproperlyConfigured: If the settings are invalid, or the stream is not among them.

        """
        return streams_settings[self.alias]

    @property
    def client(self) -> Client:
        """
        The client or the fleet of this process.

        Raises:
            ImproperlyConfigured: If the settings are invalid, or the stream is not among them.

        """
        with self._lock:
            return cast("Client", self.prepare() if self._client is None else self._client)

    @property
    def fleet(self) -> Fleet:
        """
        The fleet of this process.

        Raises:
            ImproperlyConfigured: If the settings are invalid, or the stream is not among them.
            TypeError: If the stream has no ``SOURCE``.

        """
        if not self.settings.is_fleet:
            raise TypeError(f"stream {self.alias!r} is not a fleet: it has no SOURCE")
        return cast("Fleet", self.client)

    def prepare(self, *, foreground: bool = False, lease: bool = True) -> Client | Fleet:
        """
        Build a new client or fleet. An existing one is closed first.

        Args:
            foreground: Whether a fatal error stops the client, so that a supervisor restarts the
                command.
            lease: Whether to use the lease of the settings.

        """
        self.forget_client()  # without the lock, because handlers that finish may need it
        with self._lock:
            self.register_handlers()
            self._client = self._built(foreground=foreground, lease=lease)
            return self._client

    def _built(self, *, foreground: bool, lease: bool) -> Client | Fleet:
        settings = self.settings
        if settings.is_fleet:
            return settings.fleet(self.handlers, lease=lease)
        return Client(settings.client_options(self.handlers, foreground=foreground, lease=lease))

    def register_handlers(self) -> None:
        """Register the handlers of the settings. Calling it again has no effect."""
        settings = self.settings
        if settings.atomic is not None and not self._is_atomic:
            self._is_atomic = True
            self.handlers.use(self._atomic, per="call")
        if not self._from_settings:
            options = settings.resolved()
            on_message = options.get("MESSAGE_HANDLER")
            on_ready = options.get("CONNECTION_READY_HANDLER")
            self._register(self.handlers.on_message, on_message, "handle_message")
            self._register(self.handlers.on_ready, on_ready, "on_connection_ready")

    def _register(self, register: Callable[[Any], Any], handler: Any, method: str) -> None:
        if handler is not None:
            function = getattr(handler, method, handler)
            self._from_settings.append(function)
            register(function)

    def forget_client(self) -> None:
        """Close the client if there is one. The next use builds a new one."""
        with self._lock:
            client, self._client = self._client, None
            for function in self._from_settings:
                self.handlers.remove(function)
            self._from_settings = []
        if client is not None:
            client.close()
            self.hygiene.close()

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for attributes that the stream lacks, such as send and stats.
        if name.startswith("_") or not (hasattr(Client, name) or name in ("aio", *OF_FLEETS)):
            raise AttributeError(f"a stream has no attribute {name!r}")
        return getattr(self.client, name)

    # --- a fleet's streams ---

    def __getitem__(self, key: Any) -> Client:
        """Return the client of a fleet's stream. Raises KeyError if it does not run here."""
        return self.fleet[key]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys of the fleet's streams in this process."""
        return iter(self.fleet)

    def __len__(self) -> int:
        return len(self.fleet)

    def __contains__(self, key: object) -> bool:
        return key in self.fleet

    def __bool__(self) -> bool:
        return True  # len() of an empty fleet is 0

    @property
    def current(self) -> Client:
        """
        The client whose handler or hook is running in this context, if the stream is a fleet.

        Raises:
            NotConnectedError: Outside handlers and hooks of this fleet.
            TypeError: If the stream has no ``SOURCE``.

        """
        return self.fleet.current

    def refresh(self) -> None:
        """
        Request that the source of the fleet is called now, without waiting for it.

        Raises:
            NotConnectedError: If the fleet isn't running.
            TypeError: If the stream has no ``SOURCE``.

        """
        self.fleet.refresh()

    def start(self) -> None:
        """Connect in the background. It has no effect if the stream has ``"ENABLED": False``."""
        if self.settings.enabled:
            self.client.start()
        else:
            text = "stream %s is not started: ENABLED is False"
            log.info(text, self.alias, extra=fields(self.alias))

    def deliver(self, data: Any, robust: bool = False, *, key: Any = None) -> None:
        """
        Pass a message to the handlers, in this thread and its transaction. Use it in tests.

        Args:
            data: A str or bytes as received. Any other object is encoded first.
            robust: ``True`` reports a handler's exception, as in production. ``False`` raises it.
            key: The key of a fleet's stream. ``None`` without a fleet.

        """
        deliver(self, data, robust=robust, key=key)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()

    # --- around handlers ---

    def _atomic(self) -> Atomic:
        return Atomic(streams_settings[self.alias].atomic)

    def _note_state(self, event: Any) -> None:
        # The streams of a fleet share the clean-up, so the end of one must not close it.
        if event.state.is_final and isinstance(self._client, Client):
            self.hygiene.close()

    # --- about it ---

    @property
    def has_handlers(self) -> bool:
        """Whether the project has registered a handler on this stream, not on every stream."""
        hooks = (hook.function for hooks in self.handlers.hooks.values() for hook in hooks)
        not_its_own = [self._note_state, *self.for_every_stream]
        return any(it not in not_its_own for it in (*hooks, *self.handlers.message_functions))

    def renew_lock(self) -> None:
        """Replace the lock after a fork, because another thread may have held it."""
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Stream {self.alias}>"


class Atomic:
    """``transaction.atomic()`` around synchronous handlers. Coroutines can't have transactions."""

    def __init__(self, using: str | None) -> None:
        self._atomic = transaction.atomic(using=using) if using is not None else None

    def __enter__(self) -> None:
        if self._atomic is not None:
            self._atomic.__enter__()

    def __exit__(self, *exception: Any) -> None:
        if self._atomic is not None:
            self._atomic.__exit__(*exception)

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exception: object) -> None: ...


class Streams(Mapping[str, Stream]):
    """
    The streams by alias, available as ``datastreams``.

    A look-up never fails and reads no settings, so modules can register handlers at import.
    Iteration yields the configured streams.

    Attributes:
        lock: Held while a stream is made, and while a handler is registered on every stream. One
            lock for both, because each of them leads to the other.

    """

    def __init__(self) -> None:
        self._made: dict[str, Stream] = {}
        self.lock = threading.RLock()
        self._on_made: list[Callable[[Stream], None]] = []
        in_child(self.renew_lock)

    def __getitem__(self, alias: str) -> Stream:
        if not isinstance(alias, str):
            raise KeyError(alias)
        stream = self._made.get(alias)
        return stream if stream is not None else self._make(alias)

    def _make(self, alias: str) -> Stream:
        with self.lock:
            if alias not in self._made:
                stream = self._made[alias] = Stream(alias)
                for function in self._on_made:
                    function(stream)
            return self._made[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(streams_settings)

    def __len__(self) -> int:
        return len(streams_settings)

    def __contains__(self, alias: object) -> bool:
        return alias in streams_settings

    @property
    def made(self) -> list[Stream]:
        """Every stream that has been looked up, configured or not."""
        with self.lock:
            return list(self._made.values())

    @property
    def enabled(self) -> list[Stream]:
        """The configured streams without ``"ENABLED": False``. Raises ImproperlyConfigured."""
        return [self[alias] for alias in self if streams_settings[alias].enabled]

    def for_each(self, function: Callable[[Stream], None]) -> None:
        """Call *function* for each existing stream, and for each one that is created later."""
        with self.lock:
            self._on_made.append(function)
            for stream in self.made:
                function(stream)

    def forget_clients(self) -> None:
        """Close all clients. The next use of a stream builds a new client."""
        for stream in self.made:
            stream.forget_client()

    def renew_lock(self) -> None:
        """Replace the lock after a fork, because another thread may have held it."""
        self.lock = threading.RLock()


datastreams = Streams()
datastream = datastreams["default"]

streams_settings.on_reset(datastreams.forget_clients)
