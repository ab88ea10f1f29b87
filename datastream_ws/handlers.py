"""The registry behind ``on_message``, ``on_batch`` and the hooks: which handlers a message has."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from .codecs import Codec, converter_for
from .exceptions import ConfigurationError
from .messages import decoded

if TYPE_CHECKING:
    from .messages import Message

__all__ = ["Decorators", "Handler", "Handlers", "Unit"]

F = TypeVar("F", bound=Callable[..., Any])

HOOKS = (
    "on_connect",
    "on_ready",
    "on_disconnect",
    "on_gap",
    "on_state",
    "on_error",
)


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
    _converters: dict[Codec, Callable[[str | bytes], Any]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Module and name of the callable, for logs."""
        function = self.function
        found = getattr(function, "__qualname__", None) or type(function).__qualname__
        return f"{getattr(function, '__module__', None) or ''}.{found}".lstrip(".")

    @property
    def is_batch(self) -> bool:
        return self.max_size > 0

    def argument(self, message: Message) -> Any:
        """Return what the callable is given for *message*; may raise DecodeError."""
        if self.decode_as is None:
            return message
        return decoded(self.converter(message.origin.codec), message.data)

    def converter(self, codec: Codec) -> Callable[[str | bytes], Any]:
        if codec not in self._converters:
            self._converters[codec] = converter_for(self.decode_as, codec)
        return self._converters[codec]

    def same_call(self, other: Handler) -> bool:
        """Whether both would call the same function with the same argument."""
        return self.function == other.function and self.decode_as is other.decode_as


@dataclass(frozen=True, slots=True)
class Unit:
    """A context to enter around handlers: ``use(factory, per=…)``."""

    factory: Callable[[], Any]
    per: Literal["call", "run"]


def is_coroutine_callable(function: Any) -> bool:
    """Whether calling *function* gives a coroutine (partials and ``__call__`` included)."""
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
        self._by_route: dict[str | None, tuple[Handler, ...]] = {}
        self._every: tuple[Handler, ...] | None = ()
        self._direct: tuple[Handler, ...] = ()
        self.batches: tuple[Handler, ...] = ()
        self.hooks: dict[str, tuple[Handler, ...]] = dict.fromkeys(HOOKS, ())
        self.units: tuple[Unit, ...] = ()
        self.added: set[Callable[[], None]] = set()
        """Called after a message handler was registered; for those who hold messages back."""

    def renew_lock(self) -> None:
        """After a fork: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()
        self.added = set()

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
        if route is not None and not isinstance(route, str):
            raise ConfigurationError("on_message: the route must be a string")
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
        max_wait: float = 0.5,
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
        if not isinstance(max_size, int) or max_size < 1:
            raise ConfigurationError("on_batch: max_size must be a whole number of at least 1")
        if not max_wait >= 0:
            raise ConfigurationError("on_batch: max_wait must be a number of seconds, 0 or more")

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
        self, factory: Callable[[], Any], per: Literal["call", "run"] = "call"
    ) -> Callable[[], Any]:
        """
        Enter what ``factory()`` returns around handlers, in the thread that handles.

        A context manager is entered around every handler, an asynchronous one around coroutine
        handlers only; an object that is both serves each kind as its own.

        Args:
            factory: Called anew each time.
            per: ``"call"``: around each handler call, hooks included; it sees what the handler
                raised. ``"run"``: around each run of waiting messages (at most 100, or 50 ms).

        """
        if not callable(factory):
            raise ConfigurationError("use: the factory must be callable")
        if per not in ("call", "run"):
            raise ConfigurationError("use: per must be 'call' or 'run'")
        with self._lock:
            self.units += (Unit(factory, per),)
        return factory

    def _hook(self, kind: str, function: F) -> F:
        if not callable(function):
            raise ConfigurationError(f"{kind}: must be given a callable")
        with self._lock:
            handler = Handler(function, is_coroutine_callable(function))
            self.hooks[kind] += (handler,)
        return function

    def _add(self, handler: Handler) -> None:
        if not callable(handler.function):
            raise ConfigurationError("on_message: must be given a callable")
        with self._lock:
            if handler.is_batch:
                self.batches += (handler,)
            self._handlers += (handler,)
            self._by_route = {}
            plain = all(not (h.route or h.when or h.default) for h in self._handlers)
            self._every = _without_repeats(self._handlers) if plain else None
            plain = plain and not any(h.is_batch or h.decode_as for h in self._handlers)
            self._direct = self._every or () if plain else ()
        for callback in tuple(self.added):
            callback()

    # --- look-up ---

    @property
    def has_message_handlers(self) -> bool:
        return bool(self._handlers)

    @property
    def all_async(self) -> bool:
        """Whether every message handler is a coroutine function."""
        return all(handler.is_async for handler in self._handlers)

    def direct(self, is_async: bool) -> tuple[Handler, ...]:
        """
        Return the handlers if every one of them is of this kind and is simply to be called
        with every message, without contexts; else nothing.
        """
        if self.units or any(handler.is_async is not is_async for handler in self._direct):
            return ()
        return self._direct

    def match(self, message: Message) -> tuple[Handler, ...]:
        """
        Return the handlers of *message*, in order of registration, each once.

        Raises:
            Exception: Whatever the user's ``route`` or ``when`` raised.

        """
        if self._every is not None:
            return self._every
        route = message.route
        candidates = self._by_route.get(route)
        if candidates is None:
            candidates = self._candidates(route)
        if any(handler.when or handler.default for handler in candidates):
            return _chosen(candidates, message)
        return candidates

    def _candidates(self, route: str | None) -> tuple[Handler, ...]:
        with self._lock:
            found = _without_repeats(h for h in self._handlers if h.route in (None, route))
            # Routes are the peer's: a thousand made-up names must not fill the memory.
            if len(self._by_route) < 1000:
                self._by_route[route] = found
        return found


def _chosen(candidates: tuple[Handler, ...], message: Message) -> tuple[Handler, ...]:
    taking = tuple(h for h in candidates if not h.default and (not h.when or h.when(message)))
    return taking or tuple(h for h in candidates if h.default)


def _without_repeats(handlers: Iterable[Handler]) -> tuple[Handler, ...]:
    """Keep the first of handlers that would do the same call twice."""
    kept: list[Handler] = []
    for handler in handlers:
        if not any(handler.same_call(other) and not _conditional(other) for other in kept):
            kept.append(handler)
    return tuple(kept)


def _conditional(handler: Handler) -> bool:
    return handler.when is not None or handler.default or handler.is_batch


class Decorators:
    """The decorators of a :class:`Handlers` registry, on whatever has one."""

    handlers: Handlers

    @property
    def on_message(self):  # type: ignore[no-untyped-def]  # the overloads of the method it returns
        """See :meth:`Handlers.on_message`."""
        return self.handlers.on_message

    @property
    def on_batch(self):  # type: ignore[no-untyped-def]
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
        self, factory: Callable[[], Any], per: Literal["call", "run"] = "call"
    ) -> Callable[[], Any]:
        """See :meth:`Handlers.use`."""
        return self.handlers.use(factory, per)


class _NoCodec:
    """Stands in while ``decode_as`` is checked, before any client has a codec."""

    def decode(self, data: str | bytes) -> Any:
        raise NotImplementedError

    def encode(self, obj: Any) -> str | bytes:
        raise NotImplementedError


_NO_CODEC = _NoCodec()
