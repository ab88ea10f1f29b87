"""
``datastreams[alias]``: what handlers are registered on, and what sends, starts and tells the state.

A stream object is made when its name is first used, and lives as long as the process; settings
are read, and the client is built, when a verb or a fact is first asked for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from django.db import transaction

from datastream_ws import Client, Handlers
from datastream_ws.embedding import Decorators, fields, in_child

from .conf import StreamSettings, streams_settings
from .db import Hygiene
from .delivery import deliver

__all__ = ["Stream", "Streams", "datastream", "datastreams"]

log = logging.getLogger("datastream_ws")


# Facts and verbs that only fleets have.
OF_FLEETS = ("counts", "is_running", "source_size")

if TYPE_CHECKING:
    from datastream_ws import Fleet

    Face = Client  # so that an editor knows the verbs and facts that __getattr__ finds
else:
    Face = Decorators


class Stream(Face):
    """
    One stream of ``DATASTREAMS``: every decorator, verb and fact of :class:`datastream_ws.Client`.

    With ``SOURCE`` in its settings it is a fleet, and has those of :class:`datastream_ws.Fleet`:
    ``datastreams["accounts"][42]`` is the client of one stream.

    Decorators work at once. Everything else is the client's, which is built on first use, one per
    process; a wrong setting raises ImproperlyConfigured then. Handlers may use the ORM.

    Attributes:
        alias: Its key in ``DATASTREAMS``.
        handlers: The registry behind the decorators.
        hygiene: The clean-up of database connections around what handlers do.
        for_every_stream: Those of its handlers that every other stream has, too.

    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.handlers = Handlers()  # type: ignore[misc]  # a property, to mypy
        self.hygiene = Hygiene()
        self._lock = threading.RLock()
        self._client: Client | Fleet | None = None
        self._from_settings: list[Callable[..., Any]] = []
        self._is_atomic = False
        self.handlers.use(self.hygiene.run, per="run")
        self.handlers.on_state(self._note_state)
        self.for_every_stream: list[Callable[..., Any]] = []
        in_child(self.renew_lock)

    # --- the client ---

    @property
    def settings(self) -> StreamSettings:
        """Its part of ``DATASTREAMS``; raises ImproperlyConfigured."""
        return streams_settings[self.alias]

    @property
    def client(self) -> Client:
        """The client of this process, or what :attr:`fleet` is; raises ImproperlyConfigured."""
        with self._lock:
            return cast("Client", self.prepare() if self._client is None else self._client)

    @property
    def fleet(self) -> Fleet:
        """The fleet of this process; raises ImproperlyConfigured, TypeError if it is a stream."""
        if not self.settings.is_fleet:
            raise TypeError(f"stream {self.alias!r} is not a fleet: it has no SOURCE")
        return cast("Fleet", self.client)

    def prepare(self, *, foreground: bool = False, lease: bool = True) -> Client | Fleet:
        """
        Build the client or the fleet anew; one that runs is closed first.

        Args:
            foreground: For a command that a supervisor restarts: a fatal error ends a client.
            lease: Whether the lease that the settings ask for is used.

        """
        self.forget_client()  # not under the lock: handlers that finish may need it
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
        """Register what the settings name. Calling it again has no effect."""
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
        """Close the client, if there is one, and build a new one when it is needed again."""
        with self._lock:
            client, self._client = self._client, None
            for function in self._from_settings:
                self.handlers.remove(function)
            self._from_settings = []
        if client is not None:
            client.close()
            self.hygiene.close()

    def __getattr__(self, name: str) -> Any:
        # send, close, state, stats, aio …: the client's. Only what is missing here comes here.
        if name.startswith("_") or not (hasattr(Client, name) or name in ("aio", *OF_FLEETS)):
            raise AttributeError(f"a stream has no attribute {name!r}")
        return getattr(self.client, name)

    # --- a fleet's streams ---

    def __getitem__(self, key: Any) -> Client:
        """Return the client of a fleet's stream; KeyError if it does not run here."""
        return self.fleet[key]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the keys of a fleet's streams that run here."""
        return iter(self.fleet)

    def __len__(self) -> int:
        return len(self.fleet)

    def __contains__(self, key: object) -> bool:
        return key in self.fleet

    def __bool__(self) -> bool:
        return True  # also a fleet without streams

    @property
    def current(self) -> Client:
        """The client of a fleet whose handler or hook runs here; see ``Fleet.current``."""
        return self.fleet.current

    def refresh(self) -> None:
        """Have the source of a fleet asked now; see ``Fleet.refresh``."""
        self.fleet.refresh()

    def start(self) -> None:
        """Connect in the background of this process, unless ``ENABLED`` is false."""
        if self.settings.enabled:
            self.client.start()
        else:
            text = "stream %s is not started: ENABLED is False"
            log.info(text, self.alias, extra=fields(self.alias))

    def deliver(self, data: Any, robust: bool = False, *, key: Any = None) -> None:
        """
        Give a message to the handlers, in this thread and its transaction; for tests.

        Args:
            data: str or bytes as received, or an object to be encoded first.
            robust: Report what a handler raises, as in production, instead of raising it.
            key: Of a fleet: the key of the stream that the message is of.

        """
        deliver(self, data, robust=robust, key=key)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()

    # --- around handlers ---

    def _atomic(self) -> Atomic:
        return Atomic(streams_settings[self.alias].atomic)

    def _note_state(self, event: Any) -> None:
        # Streams of a fleet share it, and end one by one.
        if event.state.is_final and isinstance(self._client, Client):
            self.hygiene.close()

    # --- about it ---

    @property
    def has_handlers(self) -> bool:
        """Whether the project has registered anything on this stream in particular."""
        hooks = (hook.function for hooks in self.handlers.hooks.values() for hook in hooks)
        not_its_own = [self._note_state, *self.for_every_stream]
        return any(it not in not_its_own for it in (*hooks, *self.handlers.message_functions))

    def renew_lock(self) -> None:
        """After a fork: the lock may be held by a thread that is gone."""
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._atomic is not None:
            self._atomic.__exit__(kind, error, trace)

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exception: object) -> None: ...


class Streams(Mapping[str, Stream]):
    """
    ``datastreams``: the streams by alias.

    Looking one up never fails and reads no settings, so that modules may register handlers at
    import; iteration goes over those that are configured.
    """

    def __init__(self) -> None:
        self._made: dict[str, Stream] = {}
        self._lock = threading.RLock()
        self._on_made: list[Callable[[Stream], None]] = []
        in_child(self.renew_lock)

    def __getitem__(self, alias: str) -> Stream:
        if not isinstance(alias, str):
            raise KeyError(alias)
        stream = self._made.get(alias)
        return stream if stream is not None else self._make(alias)

    def _make(self, alias: str) -> Stream:
        with self._lock:
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
        """Every stream that was named so far, configured or not."""
        with self._lock:
            return list(self._made.values())

    @property
    def enabled(self) -> list[Stream]:
        """The configured ones whose ENABLED is true; raises ImproperlyConfigured."""
        return [self[alias] for alias in self if streams_settings[alias].enabled]

    def for_each(self, function: Callable[[Stream], None]) -> None:
        """Call *function* for each stream, now and when one is made later."""
        with self._lock:
            self._on_made.append(function)
            for stream in self.made:
                function(stream)

    def forget_clients(self) -> None:
        """Close all clients; those needed again are built from the settings of then."""
        for stream in self.made:
            stream.forget_client()

    def renew_lock(self) -> None:
        """After a fork."""
        self._lock = threading.RLock()


datastreams = Streams()
datastream = datastreams["default"]

streams_settings.on_reset(datastreams.forget_clients)
