"""The registry behind ``on_message``, ``on_batch``, the hooks and ``use()``."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal, TypeVar, overload

from .codecs import object_converter
from .events import DisconnectEvent, GapEvent, StateEvent
from .exceptions import LONGEST_SECONDS, ConfigurationError, HandlerError
from .forks import in_child
from .messages import Message
from .routing import Handler, Routing

__all__ = ["Call", "ContextFactory", "Decorators", "Handler", "Handlers", "check_context"]

T = TypeVar("T")
R = TypeVar("R")

# Each decorator returns the function that it is given, its type unchanged.
MessageFunction = TypeVar("MessageFunction", bound=Callable[[Message], object])
BatchFunction = TypeVar("BatchFunction", bound=Callable[[list[Message]], object])
Hook = TypeVar("Hook", bound=Callable[[], object])
DisconnectHook = TypeVar("DisconnectHook", bound=Callable[[DisconnectEvent], object])
GapHook = TypeVar("GapHook", bound=Callable[[GapEvent], object])
StateHook = TypeVar("StateHook", bound=Callable[[StateEvent], object])
ErrorHook = TypeVar("ErrorHook", bound=Callable[[BaseException], object])

# The argument of each hook. An empty string means no argument.
HOOKS = {
    "on_connect": "",
    "on_ready": "",
    "on_closing": "",
    "on_disconnect": "event",
    "on_gap": "event",
    "on_state": "event",
    "on_error": "error",
}
DECORATORS = ("on_message", "on_batch", *HOOKS, "use")

Per = Literal["call", "run"]


@dataclass(frozen=True, slots=True)
class Call:
    """
    A call of a handler or hook, which a factory of ``use()`` with a parameter gets.

    Attributes:
        handler: The handler or hook. Its ``name`` is the qualified name of the function.
        messages: The messages that the handler is called with. A hook has none.
        hook: The kind of hook, such as ``"on_ready"``. It's empty for a handler of messages.

    """

    handler: Handler
    messages: tuple[Message, ...]
    hook: str = ""


Context = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]
Factory = TypeVar("Factory", bound=Callable[[], Context] | Callable[[Call], Context])


@dataclass(frozen=True, slots=True)
class ContextFactory:
    """
    A registered factory of contexts to enter around handlers, see :meth:`Decorators.use`.

    Attributes:
        factory: The callable that returns a context manager.
        per: Whether a context is entered around each ``"call"`` or each ``"run"``.
        takes_call: Whether the factory gets the :class:`Call`.

    """

    factory: Callable[..., Any]
    per: Per
    takes_call: bool = False

    def context(self, call: Call | None = None) -> Any:
        """Return a new context. Raises TypeError if the factory returns something else."""
        context = self.factory(call) if self.takes_call else self.factory()
        check_context(context)
        return context


def check_context(context: Any) -> None:
    """Raise TypeError unless *context* is a context manager, synchronous or asynchronous."""
    if not (hasattr(type(context), "__enter__") or hasattr(type(context), "__aenter__")):
        # For example, a generator function without @contextmanager would never run.
        raise TypeError(
            f"use: the factory must return a context manager, not {type(context).__name__}"
        )


class Decorators:
    """
    The decorators that register handlers and hooks.

    You can use them from any thread and at any time, even while messages are handled.
    """

    handlers: Handlers

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in DECORATORS:
            if getattr(cls, name) is not getattr(Decorators, name):
                raise ConfigurationError(
                    f"{cls.__name__}.{name} would never be called, because it replaces the "
                    f"decorator {name}. Rename the method, and register it in __init__ with "
                    f"self.{name}(self.new_name)."
                )

    @overload
    def on_message(self, route: MessageFunction, /) -> MessageFunction: ...

    @overload
    def on_message(
        self,
        route: str | int | None = None,
        *,
        when: Callable[[Message], object] | None = None,
        default: bool = False,
        decode_as: None = None,
        inline: bool = False,
    ) -> Callable[[MessageFunction], MessageFunction]: ...

    @overload
    def on_message(
        self,
        route: str | int | None = None,
        *,
        when: Callable[[Message], object] | None = None,
        default: bool = False,
        decode_as: type[T],
        inline: bool = False,
    ) -> Callable[[Callable[[T], R]], Callable[[T], R]]: ...

    def on_message(
        self,
        route: Any = None,
        *,
        when: Callable[[Message], object] | None = None,
        default: bool = False,
        decode_as: type | None = None,
        inline: bool = False,
    ) -> Any:
        """
        Register a handler of messages. Use it as a decorator, with or without arguments.

        A synchronous handler runs on a thread, and a coroutine function runs on the event loop.
        Handlers run one at a time unless you set the option ``concurrency``.

        Args:
            route: Handle only messages with this route, a string or a whole number. ``None``
                means every message.
            when: Handle only messages for which ``when(message)`` is true. If it raises an
                exception, this handler has failed for the message, and the others are called.
            default: Handle only messages that match no other handler.
            decode_as: A dataclass or ``msgspec.Struct`` to decode the payload into. The handler
                gets the result instead of the message.
            inline: Call the function on the event loop's thread when a message is received,
                before messages that wait in the inbox. It must be synchronous and must not block.

        Raises:
            ConfigurationError: If *decode_as* is another type, if *default* is combined with
                another condition, or if the function can't be called with one argument.

        """
        function, route = (route, None) if callable(route) else (None, route)
        _check_conditions("on_message", route, when)
        if default and (route is not None or when is not None or inline):
            raise ConfigurationError(
                "on_message: default=True cannot be combined with route, when or inline"
            )
        if decode_as is not None:
            object_converter(decode_as)

        def register(function: Any) -> Any:
            is_async = is_coroutine_callable(function)
            handler = Handler(function, is_async, route, when, default, decode_as, inline=inline)
            self.handlers.add(handler)
            return function

        return register if function is None else register(function)

    @overload
    def on_batch(self, max_size: BatchFunction, /) -> BatchFunction: ...

    @overload
    def on_batch(
        self,
        max_size: int = 100,
        max_wait: float = 0.5,
        *,
        route: str | int | None = None,
        when: Callable[[Message], object] | None = None,
    ) -> Callable[[BatchFunction], BatchFunction]: ...

    def on_batch(
        self,
        max_size: Any = 100,
        max_wait: Any = 0.5,
        *,
        route: Any = None,
        when: Callable[[Message], object] | None = None,
    ) -> Any:
        """
        Register a handler of lists of messages, in order of arrival.

        Use it as a decorator, with or without arguments.

        Args:
            max_size: The maximum number of messages in a list.
            max_wait: The maximum number of seconds that the first message waits for more.
            route: Handle only messages with this route. ``None`` means every message.
            when: Handle only messages for which ``when(message)`` is true.

        Raises:
            ConfigurationError: If an argument is invalid, or the function can't be called with one
                argument.

        """
        function, max_size = (max_size, 100) if callable(max_size) else (None, max_size)
        if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 1:
            raise ConfigurationError("on_batch: max_size must be a whole number of at least 1")
        if not isinstance(max_wait, int | float) or not 0 <= max_wait <= LONGEST_SECONDS:
            raise ConfigurationError("on_batch: max_wait must be a number of seconds, 0 or more")
        _check_conditions("on_batch", route, when)

        def register(function: Any) -> Any:
            is_async = is_coroutine_callable(function)
            batch = Handler(function, is_async, route, when, max_size=max_size, max_wait=max_wait)
            self.handlers.add(batch)
            return function

        return register if function is None else register(function)

    def on_connect(self, function: Hook) -> Hook:
        """
        Register a hook that is called without arguments after each opening handshake.

        Log in here, because nothing else is sent before the hook returns. If it raises an exception
        or takes longer than ``ready_timeout``, the attempt fails. The connection is then closed
        with 1000, or with the code of the ``StreamClosedError`` that the hook raises.
        """
        return self.handlers.add_hook("on_connect", function)

    def on_ready(self, function: Hook) -> Hook:
        """
        Register a hook that is called without arguments on each connection, before it is ready.

        Messages are handled while it runs, so it can wait for replies. If it raises an exception
        or takes longer than ``ready_timeout``, the attempt fails as with :meth:`on_connect`.
        """
        return self.handlers.add_hook("on_ready", function)

    def on_closing(self, function: Hook) -> Hook:
        """
        Register a hook that is called without arguments when the client begins to close.

        It's called only if there is a connection, and awaited within ``close_timeout``. Messages
        are still received. Log out here.
        """
        return self.handlers.add_hook("on_closing", function)

    def on_disconnect(self, function: DisconnectHook) -> DisconnectHook:
        """Register a hook that gets a :class:`DisconnectEvent` when a connection has ended."""
        return self.handlers.add_hook("on_disconnect", function)

    def on_gap(self, function: GapHook) -> GapHook:
        """Register a hook that gets a :class:`GapEvent` when there is a connection again."""
        return self.handlers.add_hook("on_gap", function)

    def on_state(self, function: StateHook) -> StateHook:
        """Register a hook that gets a :class:`StateEvent` when the state has changed."""
        return self.handlers.add_hook("on_state", function)

    def on_error(self, function: ErrorHook) -> ErrorHook:
        """Register a hook that gets every reported error, including those of the network."""
        return self.handlers.add_hook("on_error", function)

    def use(self, factory: Factory, per: Per = "call") -> Factory:
        """
        Enter the context that ``factory()`` returns around handlers, in their thread.

        A context manager is entered around every handler, and an asynchronous one around coroutine
        handlers only. If an object is both, each kind of handler uses its own kind.

        Args:
            factory: A callable that creates each context. If it has a parameter, it gets the
                :class:`~datastream_ws.handlers.Call`.
            per: ``"call"`` enters it around each call of a handler or hook, so it gets the
                handler's exception. ``"run"`` enters it once for up to 100 waiting
                messages, or for as many as are handled within 50 ms.

        Raises:
            ConfigurationError: If *factory* isn't callable, if *per* is invalid, or if a factory
                for ``"run"`` requires an argument.

        """
        if not callable(factory):
            raise ConfigurationError("use: the factory must be callable")
        if per not in ("call", "run"):
            raise ConfigurationError("use: per must be 'call' or 'run'")
        wants_call = takes_call(factory)
        if wants_call and per == "run":
            raise ConfigurationError("use: a factory of per='run' must not need an argument")
        self.handlers.add_context_factory(ContextFactory(factory, per, wants_call))
        return factory


class Handlers(Decorators):
    """
    A registry of handlers and hooks, with the decorators of a client.

    Pass it as the option ``handlers``. Several clients can share one. You can register handlers
    from any thread and at any time, even while messages are being handled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.routing = Routing()  # replaced when a handler is registered
        self.inline = Routing()  # the same for inline handlers
        self.hooks: dict[str, tuple[Handler, ...]] = dict.fromkeys(HOOKS, ())
        self.context_factories: tuple[ContextFactory, ...] = ()
        self.changed: set[Callable[[], None]] = set()
        """Called after a message handler or a context was registered or removed."""
        self.on_failure: list[Callable[[HandlerError], None]] = []
        """
        Called with each failure of a message handler, before it is reported.

        It runs in the handler's thread, or in another thread if the handler is a coroutine
        function. The message waits meanwhile, so a dead letter can be stored reliably.
        """
        self.on_round_trip: list[Callable[[float], None]] = []
        """Called with the seconds of each ping, on the loop's thread."""
        self._all: tuple[Handler, ...] = ()
        self._followed: tuple[Handlers, ...] = ()  # kept alive, because they may follow others
        self._followers: weakref.WeakSet[Handlers] | None = None
        in_child(self.renew_lock)

    @property
    def handlers(self) -> Handlers:  # type: ignore[override]  # read-only here
        """This registry itself, which the decorators use."""
        return self

    def renew_lock(self) -> None:
        """Replace the lock after a fork, because a thread of the parent may hold it."""
        self._lock = threading.Lock()
        self.changed = set()

    def follow(self, other: Handlers) -> None:
        """
        Also use everything that is or will be registered with *other*.

        Clients can then share handlers, and each client also has its own handlers and contexts.
        *other* holds no strong reference to this registry.
        """
        with other._lock:
            other._followers = other._followers or weakref.WeakSet()
            other._followers.add(self)
            hooks = [(kind, hook) for kind, added in other.hooks.items() for hook in added]
            handlers, context_factories = other._all, other.context_factories
        self._followed += (other,)
        self.on_round_trip = other.on_round_trip  # a callback there covers all followers
        for unit in context_factories:
            self.add_context_factory(unit)
        for kind, hook in hooks:
            self._add_hook(kind, hook)
        for handler in handlers:
            self._add(handler)

    # --- registration ---

    def add(self, handler: Handler) -> None:
        """Register a handler of messages. Raises ConfigurationError if it can't be called."""
        name = f"on_{handler.kind}"
        check_function(name, handler.function, "messages" if handler.is_batch else "message")
        if handler.inline and handler.is_async:
            raise ConfigurationError(
                f"{name}: an inline handler must be a synchronous function, and {handler.name} is "
                "a coroutine function. Define it with def, or leave out inline=True."
            )
        self._add(handler)

    def add_hook(self, kind: str, function: T) -> T:
        """Register a hook, and return it. Raises ConfigurationError if it can't be called."""
        check_function(kind, function, HOOKS[kind])
        callable_: Any = function
        self._add_hook(kind, Handler(callable_, is_coroutine_callable(function)))
        return function

    def add_context_factory(self, unit: ContextFactory) -> None:
        """Register a factory of contexts, as :meth:`use` does."""
        with self._lock:
            self.context_factories += (unit,)
            followers = tuple(self._followers or ())
        self._tell()
        for follower in followers:
            follower.add_context_factory(unit)

    def _add_hook(self, kind: str, handler: Handler) -> None:
        with self._lock:
            self.hooks[kind] += (handler,)
            followers = tuple(self._followers or ())
        for follower in followers:
            follower._add_hook(kind, handler)

    def _add(self, handler: Handler) -> None:
        with self._lock:
            self._keep((*self._all, handler))
            followers = tuple(self._followers or ())
        self._tell()
        for follower in followers:
            follower._add(handler)

    def _tell(self) -> None:
        for callback in tuple(self.changed):
            callback()

    def _keep(self, handlers: tuple[Handler, ...]) -> None:
        self._all = handlers
        self.routing = Routing(tuple(each for each in handlers if not each.inline))
        self.inline = Routing(tuple(each for each in handlers if each.inline))

    def remove(self, function: Callable[..., Any]) -> None:
        """
        Remove every registration of *function*, as a handler and as a hook.

        An unknown function has no effect. A message whose handling has begun may still reach it. An
        inline handler may also get the messages that arrived together with that message.
        """
        with self._lock:
            self.hooks = {kind: _without(function, hooks) for kind, hooks in self.hooks.items()}
            self._keep(_without(function, self._all))
            followers = tuple(self._followers or ())
        self._tell()
        for follower in followers:
            follower.remove(function)

    # --- look-up ---

    @property
    def has_message_handlers(self) -> bool:
        """Whether a handler of messages or batches is registered."""
        return bool(self._all)

    @property
    def registered(self) -> tuple[object, ...]:
        """An object that differs once a message handler or a context was registered or removed."""
        return self.routing, self.inline, self.context_factories

    @property
    def message_functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions that were registered for messages."""
        return tuple(handler.function for handler in self._all)

    def find(self, code: CodeType) -> Handler | None:
        """Return the handler or hook whose function runs *code*, or ``None``."""
        every = (*self._all, *(hook for hooks in self.hooks.values() for hook in hooks))
        return next((each for each in every if _code_of(each.function) is code), None)

    @property
    def batches(self) -> tuple[Handler, ...]:
        """The handlers that ``on_batch`` has registered."""
        return self.routing.batches

    @property
    def all_async(self) -> bool:
        """Whether every message handler is a coroutine function, except for inline ones."""
        return self.routing.all_async

    @property
    def every(self) -> tuple[Handler, ...] | None:
        """The handlers of all messages. ``None`` if they differ by message, see :meth:`match`."""
        routing = self.routing
        return None if not routing.handlers and self.inline.has_routes else routing.every

    def is_direct(self, is_async: bool) -> bool:
        """
        Return whether every handler is of one kind and needs only a call; none may take batches.
        """
        routing = self.routing
        if routing.batches:
            return False
        return routing.all_async if is_async else routing.none_async

    @property
    def only(self) -> Handler | None:
        """The only handler, if it gets every message as a Message. ``None`` otherwise."""
        every = self.every
        if every is None or len(every) != 1 or every[0].decode_as is not None:
            return None
        return every[0]

    @property
    def only_batch(self) -> Handler | None:
        """The only handler, if it is a batch handler of every message. ``None`` otherwise."""
        every = self.every
        if every is None or len(every) != 1 or not every[0].is_batch:
            return None
        return every[0]

    def has_contexts(self, per: Per) -> bool:
        """Return whether there are contexts to enter around each call, or each run."""
        factories = self.context_factories
        return bool(factories) and any(unit.per == per for unit in factories)

    def match(self, message: Message, taken: bool = False) -> tuple[Handler, ...]:
        """
        Return the handlers of *message* except inline ones, in order of registration, each once.

        If ``when`` of a handler raises an exception, a function that raises it takes its place.

        Args:
            message: The message.
            taken: Whether an inline handler has the message, see ``inline.match(message)``.

        Raises:
            DecodeError: If the message matches no handler, and its route can't be decoded.
            Exception: Any exception that a callable ``route`` raises.

        """
        chosen = self.routing.match(message, taken)
        if not chosen and not taken:
            self._refuse_unreadable(message)
        return chosen

    def _refuse_unreadable(self, message: Message) -> None:
        waited_for = self.routing.has_routes or self.inline.has_routes
        if waited_for and not callable(message.origin.route) and message.route is None:
            message.json()


# --- checks ---


def _check_conditions(decorator: str, route: Any, when: Any) -> None:
    if route is not None and (not isinstance(route, str | int) or isinstance(route, bool)):
        raise ConfigurationError(f"{decorator}: the route must be a string or a whole number")
    if when is not None:
        check_function(f"{decorator}(when=…)", when, "message")


def check_function(
    decorator: str, function: Any, argument: str, by_name: tuple[str, ...] = ()
) -> None:
    """
    Verify that *function* can be called in the way in which it will be called.

    Args:
        decorator: The decorator, which the error names.
        function: The function to verify.
        argument: The name of its positional argument. It's empty if there is none.
        by_name: The names of its keyword arguments.

    Raises:
        ConfigurationError: If it can't. The text shows the signature that it needs.

    """
    if not callable(function):
        raise ConfigurationError(f"{decorator}: must be given a callable")
    try:
        # A wrapper made with functools.wraps() may have other parameters than the function in it.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # a builtin function may have no signature
        return
    try:
        signature.bind(*[argument] * bool(argument), **dict.fromkeys(by_name))
    except TypeError:
        name = getattr(function, "__name__", None) or type(function).__name__
        text = _misfit(name, signature, argument, by_name)
        raise ConfigurationError(f"{decorator}: {text}") from None


def _misfit(
    name: str, signature: inspect.Signature, argument: str, by_name: tuple[str, ...]
) -> str:
    given = f"one argument, the {argument}" if argument else "no arguments"
    form = argument
    if by_name:
        keywords = f"keyword arguments ({', '.join(by_name)})"
        given = f"{given}, and {keywords}" if argument else keywords
        form = ", ".join(filter(None, (argument, *by_name, "**kwargs")))
    parameters = list(signature.parameters)
    text = f"{name}({', '.join(parameters)}) is called with {given}. Define {name}({form})."
    if parameters[:1] == ["self"]:
        return f"{text} Register a method through its object, in __init__ for example."
    if len(parameters) > bool(argument) and not by_name:
        return f"{text} The client is not passed: use the variable that holds it."
    return text


def is_coroutine_callable(function: Any) -> bool:
    """Return whether a call of *function* returns a coroutine. It may be a partial or an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004 - the bound method is wanted
    return inspect.iscoroutinefunction(call)


def _code_of(function: Any) -> CodeType | None:
    """Return the code that runs when *function* is called, or ``None`` if it isn't Python."""
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__code__"):
        function = getattr(function, "__call__", None)  # noqa: B004 - the bound method is wanted
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def takes_call(factory: Callable[..., Any]) -> bool:
    """Return whether *factory* needs an argument."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin function may have no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)


def _without(function: Callable[..., Any], handlers: tuple[Handler, ...]) -> tuple[Handler, ...]:
    return tuple(handler for handler in handlers if handler.function != function)
