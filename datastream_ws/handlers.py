"""The registry behind ``on_message``, ``on_batch`` and the hooks: which handlers a message has."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from .codecs import Codec, converter_for, object_converter, straight_converter
from .exceptions import ConfigurationError
from .messages import undecodable

if TYPE_CHECKING:
    from .exceptions import HandlerError
    from .messages import Message

__all__ = ["Call", "ContextFactory", "Decorators", "Handler", "Handlers"]

F = TypeVar("F", bound=Callable[..., Any])

HOOKS = (
    "on_connect",
    "on_ready",
    "on_disconnect",
    "on_gap",
    "on_state",
    "on_error",
)


LONGEST_WAIT = 1e9  # seconds; what timers can wait for ends at about 9e9


# What makes a handler's ``decode_as``, and whether of the payload or of what json() returns.
Converter = tuple[Callable[[Any], Any], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """
    One registered callable.

    Attributes:
        route, when, default: Which messages it takes; none of them: every message.
        decode_as: Type of what it is given in place of the message; ``None``: the message.
        max_size, max_wait: Of a batch, in messages and seconds; 0 for a plain handler.

    """

    function: Callable[..., Any]
    is_async: bool
    route: str | None = None
    when: Callable[[Message], Any] | None = None
    default: bool = False
    decode_as: Any = None
    max_size: int = 0
    max_wait: float = 0.0
    _converters: dict[Codec, Converter] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Module and name of the callable, for logs."""
        function = self.function
        found = getattr(function, "__qualname__", None) or type(function).__qualname__
        return f"{getattr(function, '__module__', None) or ''}.{found}".lstrip(".")

    @property
    def is_batch(self) -> bool:
        return self.max_size > 0

    @property
    def kind(self) -> str:
        return "batch" if self.is_batch else "message"

    @property
    def is_conditional(self) -> bool:
        """Whether its route alone does not say that it takes a message."""
        return self.when is not None or self.default

    def argument(self, message: Message) -> Any:
        """Return what the callable is given for *message*; may raise DecodeError."""
        if self.decode_as is None:
            return message
        convert, is_straight = self._converters.get(message.origin.codec) or self._add(message)
        try:
            return convert(message.data if is_straight else message.json())
        except Exception as error:
            raise undecodable(error, message.data) from None

    def _add(self, message: Message) -> Converter:
        codec = message.origin.codec
        straight = straight_converter(self.decode_as, codec)
        converter = (straight or object_converter(self.decode_as), straight is not None)
        self._converters[codec] = converter
        return converter

    def same_call(self, other: Handler) -> bool:
        """Whether both would call the same function with the same argument."""
        return (
            self.function == other.function
            and self.decode_as is other.decode_as
            and self.is_batch is other.is_batch
        )


# The handlers of a route, and whether any of them looks at more than the route.
Candidates = tuple[tuple[Handler, ...], bool]


@dataclass(frozen=True, slots=True)
class Call:
    """
    A call of a handler, as a factory of ``use()`` that takes an argument is given it.

    Attributes:
        messages: What the handler is called with; more than one for a batch, none for a hook.
        hook: ``"on_ready"``, …; empty: it handles messages.

    """

    handler: Handler
    messages: tuple[Message, ...]
    hook: str = ""


@dataclass(frozen=True, slots=True)
class ContextFactory:
    """
    A context to enter around handlers: ``use(factory, per=…)``.

    Attributes:
        takes_call: Whether the factory is given the :class:`Call`.

    """

    factory: Callable[..., Any]
    per: Literal["call", "run"]
    takes_call: bool = False

    def context(self, call: Call | None = None) -> Any:
        """Return a new context. Raises TypeError if it is none, and what the factory raises."""
        context = self.factory(call) if self.takes_call else self.factory()
        if not (hasattr(type(context), "__enter__") or hasattr(type(context), "__aenter__")):
            # A generator function without @contextmanager, for example: nothing of it would run.
            raise TypeError(f"use(): a factory returned no context but {type(context).__name__}")
        return context


def takes_call(factory: Callable[..., Any]) -> bool:
    """Whether *factory* cannot be called without an argument."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of a builtin
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)


def _check_conditions(decorator: str, route: Any, when: Any) -> None:
    if route is not None and not isinstance(route, str):
        raise ConfigurationError(f"{decorator}: the route must be a string")
    if when is not None and not callable(when):
        raise ConfigurationError(f"{decorator}: when must be callable")


def is_coroutine_callable(function: Any) -> bool:
    """Whether calling *function* gives a coroutine (partials and ``__call__`` included)."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004 - the bound method is wanted
    return inspect.iscoroutinefunction(call)


class Handlers:
    """
    The handlers of a stream; the decorators of a client, before any client exists.

    Pass it as the option ``handlers``; several clients may share one. Registration is allowed
    from any thread and at any time, also while messages are handled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: tuple[Handler, ...] = ()
        self._by_route: dict[str | None, Candidates] = {}
        self._routeless: Candidates = ((), False)
        self.every: tuple[Handler, ...] | None = ()
        """The handlers, if each of them takes every message."""
        self.all_async = self.none_async = True
        """Whether every message handler is a coroutine function, or a plain one."""
        self._peeks = False  # nobody will look at the rest of a message, but of a type of its own
        self.batches: tuple[Handler, ...] = ()
        self.hooks: dict[str, tuple[Handler, ...]] = dict.fromkeys(HOOKS, ())
        self.context_factories: tuple[ContextFactory, ...] = ()
        self.added: set[Callable[[], None]] = set()
        """Called after a message handler was registered; for those who hold messages back."""
        self.on_failure: list[Callable[[HandlerError], None]] = []
        """
        Called with each failure of a message handler before it is reported, in the handler's thread
        (of a coroutine handler: in a thread, while the message waits). For what must not be lost
        in a queue, as a row that keeps the message.
        """
        self._followed: tuple[Handlers, ...] = ()
        self._followers: weakref.WeakSet[Handlers] | None = None

    def renew_lock(self) -> None:
        """After a fork: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()
        self.added = set()
        for other in self._followed:
            other.renew_lock()

    def follow(self, other: Handlers) -> None:
        """
        Have everything here that is registered with *other*, so far and from now on.

        For handlers that serve several clients, each with contexts (:meth:`use`) and handlers of
        its own besides. *other* holds no reference to this registry.
        """
        with other._lock:
            other._followers = other._followers or weakref.WeakSet()
            other._followers.add(self)
            hooks = [(kind, hook) for kind, added in other.hooks.items() for hook in added]
            handlers, context_factories = other._handlers, other.context_factories
        self._followed += (other,)
        for unit in context_factories:
            self._add_context_factory(unit)
        for kind, hook in hooks:
            self._add_hook(kind, hook)
        for handler in handlers:
            self._add(handler)

    # --- registration ---

    @overload
    def on_message(self, route: F, /) -> F: ...

    @overload
    def on_message(
        self,
        route: str | None = None,
        *,
        when: Callable[[Message], Any] | None = None,
        default: bool = False,
        decode_as: Any = None,
    ) -> Callable[[F], F]: ...

    def on_message(
        self,
        route: Any = None,
        *,
        when: Callable[[Message], Any] | None = None,
        default: bool = False,
        decode_as: Any = None,
    ) -> Any:
        """
        Register a handler of messages; a decorator, with or without arguments.

        Args:
            route: Only messages with this route; ``None``: every message.
            when: Only messages for which ``when(message)`` is true.
            default: Only messages that no other handler took.
            decode_as: A dataclass or ``msgspec.Struct`` the payload is decoded into; the handler
                is given that instead of the message.

        Raises:
            ConfigurationError: If *decode_as* is neither, or *default* has another condition.

        """
        if callable(route):
            self._add(Handler(route, is_coroutine_callable(route)))
            return route
        _check_conditions("on_message", route, when)
        if default and (route is not None or when is not None):
            raise ConfigurationError("on_message: default=True goes without route and when")
        if decode_as is not None:
            converter_for(decode_as, _NO_CODEC)

        def register(function: F) -> F:
            is_async = is_coroutine_callable(function)
            self._add(Handler(function, is_async, route, when, default, decode_as))
            return function

        return register

    @overload
    def on_batch(self, max_size: F, /) -> F: ...

    @overload
    def on_batch(
        self,
        max_size: int = 100,
        max_wait: float = 0.5,
        *,
        route: str | None = None,
        when: Callable[[Message], Any] | None = None,
    ) -> Callable[[F], F]: ...

    def on_batch(
        self,
        max_size: Any = 100,
        max_wait: Any = 0.5,
        *,
        route: str | None = None,
        when: Callable[[Message], Any] | None = None,
    ) -> Any:
        """
        Register a handler of lists of messages, in order of arrival.

        Args:
            max_size: Most messages in a list.
            max_wait: Longest wait of the first one for more, in seconds.
            route: Only messages with this route; ``None``: every message.
            when: Only messages for which ``when(message)`` is true.

        """
        if callable(max_size):
            return self.on_batch()(max_size)
        if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 1:
            raise ConfigurationError("on_batch: max_size must be a whole number of at least 1")
        if not isinstance(max_wait, int | float) or not 0 <= max_wait <= LONGEST_WAIT:
            raise ConfigurationError("on_batch: max_wait must be a number of seconds, 0 or more")
        _check_conditions("on_batch", route, when)

        def register(function: F) -> F:
            is_async = is_coroutine_callable(function)
            batch = Handler(function, is_async, route, when, max_size=max_size, max_wait=max_wait)
            self._add(batch)
            return function

        return register

    def on_connect(self, function: F) -> F:
        """Register a hook called without arguments after each opening handshake."""
        return self._hook("on_connect", function)

    def on_ready(self, function: F) -> F:
        """
        Register a hook called without arguments on each connection before it counts as ready.

        Messages are handled meanwhile, so it may wait for replies. One that raises, or takes
        longer than ``ready_timeout``, makes the attempt a failed one.
        """
        return self._hook("on_ready", function)

    def on_disconnect(self, function: F) -> F:
        """Register a hook given a :class:`DisconnectEvent`."""
        return self._hook("on_disconnect", function)

    def on_gap(self, function: F) -> F:
        """Register a hook given a :class:`GapEvent`, before ``on_ready`` of the new connection."""
        return self._hook("on_gap", function)

    def on_state(self, function: F) -> F:
        """Register a hook given a :class:`StateEvent`."""
        return self._hook("on_state", function)

    def on_error(self, function: F) -> F:
        """Register a hook given every reported error, the network's too."""
        return self._hook("on_error", function)

    def use(
        self, factory: Callable[..., Any], per: Literal["call", "run"] = "call"
    ) -> Callable[..., Any]:
        """
        Enter what ``factory()`` returns around handlers, in the thread that handles.

        A context manager is entered around every handler, an asynchronous one around coroutine
        handlers only; an object that is both serves each kind as its own.

        Args:
            factory: Called anew each time; if it takes an argument, with the
                :class:`~datastream_ws.handlers.Call`.
            per: ``"call"``: around each handler call, hooks included; it sees what the handler
                raised. ``"run"``: around each run of waiting messages (at most 100, or 50 ms).

        """
        if not callable(factory):
            raise ConfigurationError("use: the factory must be callable")
        if per not in ("call", "run"):
            raise ConfigurationError("use: per must be 'call' or 'run'")
        wants_call = takes_call(factory)
        if wants_call and per == "run":
            raise ConfigurationError("use: a factory of per='run' must not need an argument")
        self._add_context_factory(ContextFactory(factory, per, wants_call))
        return factory

    def _add_context_factory(self, unit: ContextFactory) -> None:
        with self._lock:
            self.context_factories += (unit,)
            followers = tuple(self._followers or ())
        for follower in followers:
            follower._add_context_factory(unit)

    def _hook(self, kind: str, function: F) -> F:
        if not callable(function):
            raise ConfigurationError(f"{kind}: must be given a callable")
        self._add_hook(kind, Handler(function, is_coroutine_callable(function)))
        return function

    def _add_hook(self, kind: str, handler: Handler) -> None:
        with self._lock:
            self.hooks[kind] += (handler,)
            followers = tuple(self._followers or ())
        for follower in followers:
            follower._add_hook(kind, handler)

    def _add(self, handler: Handler) -> None:
        if not callable(handler.function):
            raise ConfigurationError(f"on_{handler.kind}: must be given a callable")
        with self._lock:
            self._keep(handler)
            followers = tuple(self._followers or ())
        for callback in tuple(self.added):
            callback()
        for follower in followers:
            follower._add(handler)

    def _keep(self, handler: Handler) -> None:
        if handler.is_batch:
            self.batches += (handler,)
        self._handlers += (handler,)
        self._file(handler)
        plain = all(h.route is None and not h.is_conditional for h in self._handlers)
        self.every = self._routeless[0] if plain else None
        self.all_async = all(each.is_async for each in self._handlers)
        self.none_async = not any(each.is_async for each in self._handlers)
        self._peeks = all(h.decode_as is not None and h.when is None for h in self._handlers)

    def remove(self, function: Callable[..., Any]) -> None:
        """
        Take back every registration of *function*, hooks included; an unknown one is no error.

        A message or hook at work may still reach it.
        """
        with self._lock:
            self.hooks = {kind: _without(function, hooks) for kind, hooks in self.hooks.items()}
            rest = Handlers()  # whoever looks up meanwhile must not find half of them
            for handler in _without(function, self._handlers):
                rest._keep(handler)
            for name in (
                "_by_route",
                "_routeless",
                "every",
                "all_async",
                "none_async",
                "_peeks",
                "batches",
                "_handlers",
            ):
                setattr(self, name, getattr(rest, name))
            followers = tuple(self._followers or ())
        for follower in followers:
            follower.remove(function)

    # --- look-up ---

    @property
    def has_message_handlers(self) -> bool:
        return bool(self._handlers)

    @property
    def message_functions(self) -> tuple[Callable[..., Any], ...]:
        """What was registered for messages."""
        return tuple(handler.function for handler in self._handlers)

    def is_direct(self, is_async: bool) -> bool:
        """
        Return whether every handler is of this kind and is only to be called: in no batch, and
        a coroutine function within no contexts.
        """
        if self.batches or (is_async and self.context_factories):
            return False
        return self.all_async if is_async else self.none_async

    @property
    def only(self) -> Handler | None:
        """The handler, if there is one that is given every message and nothing else is to do."""
        every = self.every
        if (
            every is None
            or len(every) != 1
            or every[0].decode_as is not None
            or self.context_factories
        ):
            return None
        return every[0]

    def has_contexts(self, per: Literal["call", "run"]) -> bool:
        """Whether there are contexts to enter around each call, or each run."""
        return any(unit.per == per for unit in self.context_factories)

    def match(self, message: Message) -> tuple[Handler, ...]:
        """
        Return the handlers of *message*, in order of registration, each once.

        Raises:
            Exception: Whatever the user's ``route`` or ``when`` raised.

        """
        if self.every is not None:
            return self.every
        route = message.find_route() if self._peeks else message.route
        candidates, conditional = self._by_route.get(route, self._routeless)
        return _chosen(candidates, message) if conditional else candidates

    def _file(self, handler: Handler) -> None:
        """
        Add a handler to the candidates of each route that some handler names.

        All other routes share one entry: they are the peer's, made-up ones must not fill memory.
        """
        if handler.route is not None:
            found = _with(handler, self._by_route.get(handler.route, self._routeless))
            self._by_route = {**self._by_route, handler.route: found}
            return
        self._by_route = {route: _with(handler, found) for route, found in self._by_route.items()}
        self._routeless = _with(handler, self._routeless)


def _without(function: Callable[..., Any], handlers: tuple[Handler, ...]) -> tuple[Handler, ...]:
    return tuple(handler for handler in handlers if handler.function != function)


def _with(handler: Handler, candidates: Candidates) -> Candidates:
    """Add a handler, unless one that always takes the message makes the same call."""
    kept, conditional = candidates
    if any(not other.is_conditional and handler.same_call(other) for other in kept):
        return candidates
    return (*kept, handler), conditional or handler.is_conditional


def _chosen(candidates: tuple[Handler, ...], message: Message) -> tuple[Handler, ...]:
    taking = tuple(h for h in candidates if not h.default and (h.when is None or h.when(message)))
    chosen = taking or tuple(h for h in candidates if h.default)
    return _without_repeats(chosen) if len(chosen) > 1 else chosen


def _without_repeats(handlers: Iterable[Handler]) -> tuple[Handler, ...]:
    """Keep the first of handlers that would do the same call twice."""
    kept: list[Handler] = []
    for handler in handlers:
        if not any(handler.same_call(other) for other in kept):
            kept.append(handler)
    return tuple(kept)


class OnMessage(Protocol):
    """The type of :meth:`Handlers.on_message`, for those who check types."""

    @overload
    def __call__(self, route: F, /) -> F: ...

    @overload
    def __call__(
        self,
        route: str | None = None,
        *,
        when: Callable[[Message], Any] | None = None,
        default: bool = False,
        decode_as: Any = None,
    ) -> Callable[[F], F]: ...


class OnBatch(Protocol):
    """The type of :meth:`Handlers.on_batch`."""

    @overload
    def __call__(self, max_size: F, /) -> F: ...

    @overload
    def __call__(
        self,
        max_size: int = 100,
        max_wait: float = 0.5,
        *,
        route: str | None = None,
        when: Callable[[Message], Any] | None = None,
    ) -> Callable[[F], F]: ...


class Decorators:
    """The decorators of a :class:`Handlers` registry, on whatever has one."""

    handlers: Handlers

    @property
    def on_message(self) -> OnMessage:
        """See :meth:`Handlers.on_message`."""
        return self.handlers.on_message

    @property
    def on_batch(self) -> OnBatch:
        """See :meth:`Handlers.on_batch`."""
        return self.handlers.on_batch

    def on_connect(self, function: F) -> F:
        """See :meth:`Handlers.on_connect`."""
        return self.handlers.on_connect(function)

    def on_ready(self, function: F) -> F:
        """See :meth:`Handlers.on_ready`."""
        return self.handlers.on_ready(function)

    def on_disconnect(self, function: F) -> F:
        """See :meth:`Handlers.on_disconnect`."""
        return self.handlers.on_disconnect(function)

    def on_gap(self, function: F) -> F:
        """See :meth:`Handlers.on_gap`."""
        return self.handlers.on_gap(function)

    def on_state(self, function: F) -> F:
        """See :meth:`Handlers.on_state`."""
        return self.handlers.on_state(function)

    def on_error(self, function: F) -> F:
        """See :meth:`Handlers.on_error`."""
        return self.handlers.on_error(function)

    def use(
        self, factory: Callable[..., Any], per: Literal["call", "run"] = "call"
    ) -> Callable[..., Any]:
        """See :meth:`Handlers.use`."""
        return self.handlers.use(factory, per)


class _NoCodec:
    """Stands in while ``decode_as`` is checked, before any client has a codec."""

    def decode(self, data: str | bytes) -> Any:
        raise NotImplementedError

    def encode(self, obj: Any) -> str | bytes:
        raise NotImplementedError


_NO_CODEC = _NoCodec()
