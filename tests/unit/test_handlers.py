"""Which handlers a message has: the registry behind on_message, on_batch, the hooks and use()."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from datastream_ws import (
    AsyncClient,
    Client,
    ClientOptions,
    ConfigurationError,
    DecodeError,
    Handlers,
    Message,
)
from datastream_ws.handlers import HOOKS, Handler, is_coroutine_callable
from datastream_ws.messages import Origin

CODEC: Any = ClientOptions("ws://localhost").codec


def message(route: Any = None, *, by: Any = "type", **fields: Any) -> Message:
    """Make a message that names itself *route*."""
    named = {} if route is None else {"type": route}
    origin = Origin("default", 1, 1, CODEC, by)
    return Message(json.dumps(named | fields), origin, 1, 0.0)


def names(handlers: Handlers, given: Message) -> list[str]:
    """Return the names of the functions a message goes to."""
    return [handler.function.__name__ for handler in handlers.match(given)]


def function(name: str) -> Callable[[Any], None]:
    """Make a function of that name."""

    def made(argument: Any) -> None: ...

    made.__name__ = name
    return made


@pytest.fixture
def handlers() -> Handlers:
    """A registry with one handler of each kind, in this order."""
    made = Handlers()
    made.on_message("a")(function("only_a"))
    made.on_message(function("every"))
    made.on_message(when=lambda message: message.json().get("big"))(function("big"))
    made.on_message("a", when=lambda message: message.json().get("big"))(function("big_a"))
    made.on_message("b")(function("only_b"))
    return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (message("a"), ["only_a", "every"]),
        (message("a", big=True), ["only_a", "every", "big", "big_a"]),
        (message("b"), ["every", "only_b"]),
        (message("other"), ["every"]),
        (message(), ["every"]),
        (message(big=1), ["every", "big"]),
        (message(5), ["every"]),
        (message(["a"]), ["every"]),
        (message(""), ["every"]),
        (message("A"), ["every"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else value.data,
)
def test_matching(handlers: Handlers, given: Message, expected: list[str]) -> None:
    """Route, condition, both or neither; in order of registration."""
    assert names(handlers, given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (message("a"), ["only_a"]),
        (message("a", big=True), ["only_a", "big"]),
        (message("b", big=True), ["big"]),
        (message("b"), ["default", "default_too"]),
        (message(), ["default", "default_too"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else value.data,
)
def test_default_takes_the_rest(given: Message, expected: list[str]) -> None:
    """What no other handler took, wherever the default was registered."""
    handlers = Handlers()
    handlers.on_message(default=True)(function("default"))
    handlers.on_message("a")(function("only_a"))
    handlers.on_message(when=lambda message: message.json().get("big"))(function("big"))
    handlers.on_message(default=True)(function("default_too"))
    assert names(handlers, given) == expected


def test_a_bare_handler_leaves_nothing_to_the_default() -> None:
    """It takes everything."""
    handlers = Handlers()
    handlers.on_message(default=True)(function("default"))
    handlers.on_message(function("every"))
    assert names(handlers, message("a")) == ["every"]


def test_no_handlers_take_nothing() -> None:
    """The message is unrouted, which is counted elsewhere."""
    assert not Handlers().has_message_handlers
    assert Handlers().match(message("a")) == ()


def test_empty_string_is_a_route_like_any_other() -> None:
    """It is not the bare decorator."""
    handlers = Handlers()
    handlers.on_message("")(function("empty"))
    assert names(handlers, message("")) == ["empty"]
    assert names(handlers, message("a")) == []
    assert names(handlers, message()) == []


def test_undecodable_message_goes_to_bare_handlers(handlers: Handlers) -> None:
    """It has no route, and is not lost."""
    origin = Origin("default", 1, 1, CODEC, "type")
    handlers = Handlers()
    handlers.on_message("a")(function("only_a"))
    handlers.on_message(function("every"))
    assert names(handlers, Message(b"\xff\x00", origin, 1, 0.0)) == ["every"]


def test_route_callable() -> None:
    """The option `route` may be a function of the message."""
    handlers = Handlers()
    handlers.on_message("even")(function("even"))
    given = message(by=lambda message: ["even", "odd"][message.seq % 2])
    assert names(handlers, given) == []
    given.seq = 2
    given._route = message()._route  # not looked for yet
    assert names(handlers, given) == ["even"]


def test_an_error_of_the_users_route_comes_through() -> None:
    """Whoever matches reports it; nothing is swallowed here."""
    handlers = Handlers()
    handlers.on_message("a")(function("only_a"))
    with pytest.raises(ZeroDivisionError):
        handlers.match(message("a", by=lambda message: 1 / 0))


@dataclass
class Typed:
    type: str


@pytest.mark.parametrize("decorator", ["on_message", "on_batch"])
def test_a_condition_that_raises_fails_its_handler_only(decorator: str) -> None:
    """The others are called; what fails bears the name of the handler and raises that error."""
    handlers, never = Handlers(), function("never")
    handlers.on_message("a")(function("only_a"))
    getattr(handlers, decorator)(when=lambda message: 1 / 0)(never)
    handlers.on_message(default=True)(function("default"))
    only_a, failing = handlers.match(message("a"))
    assert only_a.function.__name__ == "only_a"
    assert failing.name == f"{__name__}.{never.__qualname__}"
    assert failing.function.__wrapped__ is never  # type: ignore[attr-defined]
    assert not failing.is_batch
    with pytest.raises(ZeroDivisionError):
        failing.function(failing.argument(message("a")))


def test_whole_numbers_are_routes() -> None:
    """As ``{"op": 10}`` has; true is none, nor is 10.0 or "10"."""
    handlers = Handlers()
    handlers.on_message(10)(function("ten"))
    handlers.on_message(1)(function("one"))
    handlers.on_message(0)(function("zero"))
    given = [10, 1, 0, True, False, 10.0, "10", None]
    found = [names(handlers, message(by="op", op=op)) for op in given]
    assert found == [["ten"], ["one"], ["zero"], [], [], [], [], []]


@pytest.mark.parametrize("decode_as", [None, Typed])
def test_a_message_whose_route_cannot_be_read_has_failed(decode_as: Any) -> None:
    """Not silently unrouted, for it may have been for one of the handlers."""
    handlers: Any = Handlers()
    handlers.on_message("a", decode_as=decode_as)(function("only_a"))
    unreadable = Message(b"\xff\x00", Origin("default", 1, 1, CODEC, "type"), 1, 0.0)
    with pytest.raises(DecodeError):
        handlers.match(unreadable)
    assert handlers.match(unreadable, taken=True) == ()
    own = Origin("default", 1, 1, CODEC, lambda message: None)
    assert handlers.match(Message(b"\xff\x00", own, 1, 0.0)) == ()  # it has been read: no route
    assert handlers.match(message("other")) == handlers.match(message()) == ()
    handlers.on_message(default=True)(function("default"))
    assert names(handlers, unreadable) == ["default"]


def test_inline_handlers_are_matched_apart() -> None:
    """They are called when a message is received; what only they take is nobody else's."""
    handlers = Handlers()
    handlers.on_message("ping", inline=True)(function("pong"))
    handlers.on_message(default=True)(function("default"))
    ping = message("ping")
    assert [each.function.__name__ for each in handlers.inline.match(ping)] == ["pong"]
    assert handlers.inline.match(message("a")) == ()
    assert handlers.match(ping, taken=True) == ()
    assert names(handlers, message("a")) == ["default"]
    assert handlers.has_message_handlers
    assert [each.__name__ for each in handlers.message_functions] == ["pong", "default"]
    handlers.remove(handlers.message_functions[0])
    assert not handlers.inline.handlers


def test_an_unreadable_message_fails_where_only_inline_handlers_have_routes() -> None:
    handlers = Handlers()
    handlers.on_message("ping", inline=True)(function("pong"))
    unreadable = Message("{", Origin("default", 1, 1, CODEC, "type"), 1, 0.0)
    assert handlers.every is None
    with pytest.raises(DecodeError):
        handlers.match(unreadable)


# --- each once --------------------------------------------------------------------------------


def even(message: Message) -> bool:
    return message.seq % 2 == 0


def odd(message: Message) -> bool:
    return message.seq % 2 == 1


@pytest.mark.parametrize(
    ("decorators", "times"),
    [
        ([{}, {}], 1),
        ([{"route": "a"}, {"route": "a"}], 1),
        ([{"route": "a"}, {"route": "b"}], 1),
        ([{"route": "a"}, {}], 1),
        ([{}, {"route": "a"}], 1),
        ([{"when": odd}, {"route": "a"}], 1),
        ([{"route": "a"}, {"when": odd}], 1),
        ([{"when": even}, {"route": "a"}], 1),
        ([{"when": even}, {"when": odd}], 1),
        ([{"when": odd}, {"when": odd}, {}], 1),
        ([{"default": True}, {"route": "b"}], 1),
        ([{"default": True}, {"default": True}], 1),
        ([{"route": "b"}, {"when": even}], 0),
    ],
)
def test_stacked_decorators_call_once(decorators: list[dict[str, Any]], times: int) -> None:
    """However many decorators of one function match, a message reaches it once."""
    handlers: Any = Handlers()
    stacked = function("stacked")
    for arguments in decorators:
        handlers.on_message(**arguments)(stacked)
    assert names(handlers, message("a")) == ["stacked"] * times


def test_different_calls_of_one_function_are_all_made() -> None:
    """With another argument it is another call: a message, a batch, a decoded object."""
    handlers = Handlers()
    same = function("same")
    handlers.on_message(same)
    handlers.on_batch(same)
    handlers.on_message("a", decode_as=Typed)(same)
    handlers.on_batch(10, route="a")(same)
    assert [h.kind for h in handlers.match(message("a"))] == ["message", "batch", "message"]


def test_bound_methods_are_known_again() -> None:
    """`self.handle` is a new object at every look at it, and still the same handler."""

    class Owner:
        def handle(self, message: Message) -> None: ...

    handlers, owner = Handlers(), Owner()
    handlers.on_message(owner.handle)
    handlers.on_message(owner.handle)
    handlers.on_message(Owner().handle)
    assert len(handlers.match(message())) == 2


# --- what may be a handler --------------------------------------------------------------------


async def coroutine(message: Message, extra: int = 0) -> None: ...


async def any_coroutine(*arguments: object) -> None: ...


class Callable_:
    def __call__(self, message: Message) -> None: ...

    async def method(self, message: Message) -> None: ...


class AsyncCallable:
    async def __call__(self, message: Message) -> None: ...


@pytest.mark.parametrize(
    ("candidate", "is_async"),
    [
        (function("plain"), False),
        (lambda message: None, False),
        (print, False),
        (list, False),
        (coroutine, True),
        (functools.partial(function("plain")), False),
        (functools.partial(coroutine, extra=1), True),
        (functools.partial(functools.partial(coroutine), extra=1), True),
        (Callable_(), False),
        (AsyncCallable(), True),
        (functools.partial(AsyncCallable()), True),
        (Callable_().method, True),
    ],
)
def test_coroutine_functions_are_known(candidate: Any, is_async: bool) -> None:
    """Partials and objects with an async __call__ included: a coroutine nobody awaits is lost."""
    assert is_coroutine_callable(candidate) is is_async
    handlers = Handlers()
    handlers.on_message(candidate)
    assert handlers.all_async is is_async
    assert [bool(handlers.is_direct(kind)) for kind in (True, False)] == [is_async, not is_async]


@pytest.mark.parametrize(
    ("candidate", "name"),
    [
        (coroutine, f"{__name__}.coroutine"),
        (Callable_(), f"{__name__}.Callable_"),
        (Callable_().method, f"{__name__}.Callable_.method"),
        (functools.partial(coroutine), "functools.partial"),
        (print, "builtins.print"),
    ],
)
def test_name_for_logs(candidate: Any, name: str) -> None:
    """Every callable has one."""
    assert Handler(candidate, False).name.endswith(name)


def test_decorators_return_the_function() -> None:
    """So that they can be stacked, and the function called by its name."""
    handlers, plain = Handlers(), function("plain")
    assert handlers.on_message(plain) is plain
    assert handlers.on_message("a")(plain) is plain
    assert handlers.on_batch(plain) is plain
    assert handlers.on_batch(5, 1.0)(plain) is plain
    assert handlers.use(nullcontext) is nullcontext
    for hook in HOOKS:
        assert getattr(handlers, hook)(print) is print


# --- batches, types, hooks, contexts ----------------------------------------------------------


def test_batch_options() -> None:
    """100 messages, half a second, unless told."""
    handlers = Handlers()
    handlers.on_batch(function("bare"))
    handlers.on_batch(10, max_wait=0, route="a", when=odd)(function("told"))
    bare, told = handlers.batches
    assert (bare.max_size, bare.max_wait, bare.route, bare.when) == (100, 0.5, None, None)
    assert (told.max_size, told.max_wait, told.route, told.when) == (10, 0, "a", odd)
    assert names(handlers, message("a")) == ["bare", "told"]
    assert names(handlers, message("b")) == ["bare"]


@dataclass
class Flag:
    key: str
    value: bool = False


def test_decode_as_gives_the_object() -> None:
    """Handlers with a type are given that instead of the message."""
    handlers = Handlers()
    handlers.on_message("flag", decode_as=Flag)(function("flag"))
    [handler] = handlers.match(message("flag", key="dark", value=True))
    assert handler.argument(message("flag", key="dark", value=True)) == Flag("dark", True)
    with pytest.raises(DecodeError, match="Flag"):
        handler.argument(message("flag", value=True))


def test_without_type_the_message_is_given() -> None:
    """The very object."""
    given = message()
    assert Handler(print, False).argument(given) is given


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_are_kept_in_order(hook: str) -> None:
    """By kind, each function as often as it was registered; none is a message handler."""
    handlers = Handlers()
    first, second = print, any_coroutine
    getattr(handlers, hook)(first)
    getattr(handlers, hook)(second)
    assert [(h.function, h.is_async) for h in handlers.hooks[hook]] == [
        (first, False),
        (second, True),
    ]
    assert sum(map(len, handlers.hooks.values())) == 2
    assert not handlers.has_message_handlers


def test_contexts_are_kept_in_order() -> None:
    handlers = Handlers()
    handlers.use(nullcontext)
    handlers.use(threading.Lock, per="run")
    assert [(unit.factory, unit.per) for unit in handlers.context_factories] == [
        (nullcontext, "call"),
        (threading.Lock, "run"),
    ]
    assert handlers.has_contexts("call")
    assert handlers.has_contexts("run")
    assert handlers.is_direct(False)
    assert handlers.is_direct(True)


# --- what is refused --------------------------------------------------------------------------

REGISTRY: Any = Handlers()


@pytest.mark.parametrize(
    ("register", "named"),
    [
        (lambda: REGISTRY.on_message(5.0), "on_message: the route"),
        (lambda: REGISTRY.on_message(["a", "b"]), "on_message: the route"),
        (
            lambda: REGISTRY.on_message(when="big"),
            r"on_message\(when=…\): must be given a callable",
        ),
        (lambda: REGISTRY.on_message("a", default=True), "on_message: default"),
        (lambda: REGISTRY.on_message(when=odd, default=True), "on_message: default"),
        (lambda: REGISTRY.on_message(decode_as=int), "decode_as"),
        (lambda: REGISTRY.on_message(decode_as=Flag("x")), "decode_as"),
        (lambda: REGISTRY.on_message("a")("b"), "on_message: must be given a callable"),
        (lambda: REGISTRY.on_message("a")(None), "on_message: must be given a callable"),
        (lambda: REGISTRY.on_batch(0), "on_batch: max_size"),
        (lambda: REGISTRY.on_batch(True), "on_batch: max_size"),
        (lambda: REGISTRY.on_batch("100"), "on_batch: max_size"),
        (lambda: REGISTRY.on_batch(None), "on_batch: max_size"),
        (lambda: REGISTRY.on_batch(max_wait=-1), "on_batch: max_wait"),
        (lambda: REGISTRY.on_batch(max_wait="1"), "on_batch: max_wait"),
        (lambda: REGISTRY.on_batch(max_wait=None), "on_batch: max_wait"),
        (lambda: REGISTRY.on_batch(max_wait=float("nan")), "on_batch: max_wait"),
        (lambda: REGISTRY.on_batch(max_wait=float("inf")), "on_batch: max_wait"),
        (lambda: REGISTRY.on_batch(route=True), "on_batch: the route"),
        (lambda: REGISTRY.on_batch(when=5), r"on_batch\(when=…\): must be given a callable"),
        (lambda: REGISTRY.on_batch()(5), "on_batch: must be given a callable"),
        *[
            (functools.partial(lambda hook: getattr(REGISTRY, hook)(5), hook), hook)
            for hook in HOOKS
        ],
        (lambda: REGISTRY.use(5), "use: the factory"),
        (lambda: REGISTRY.use(nullcontext()), "use: the factory"),
        (lambda: REGISTRY.use(nullcontext, per="message"), "use: per"),
        (lambda: REGISTRY.use(nullcontext, per=None), "use: per"),
    ],
)
def test_refused(register: Callable[[], object], named: str) -> None:
    """At registration, where the mistake is, and naming the decorator; nothing is kept of it."""
    with pytest.raises(ConfigurationError, match=f"^{named}"):
        register()
    assert not REGISTRY.has_message_handlers
    assert not REGISTRY.context_factories
    assert not any(REGISTRY.hooks.values())


def two(ws: object, message: object) -> None: ...


class Owner:
    def method(self, message: object) -> None: ...


@pytest.mark.parametrize(
    ("register", "says"),
    [
        (
            lambda: REGISTRY.on_message(two),
            r"on_message: two\(ws, message\) is called with one argument, the message\. "
            r"Define two\(message\)\. The client is not passed",
        ),
        (lambda: REGISTRY.on_message("a", decode_as=Flag)(two), r"on_message: two\(ws, message\)"),
        (lambda: REGISTRY.on_message(Owner.method), r"\(self, message\).*through its object"),
        (lambda: REGISTRY.on_message(lambda: None), r"Define <lambda>\(message\)\.$"),
        (lambda: REGISTRY.on_batch(5)(two), r"on_batch: two\(ws, message\).*the messages\."),
        *[
            (
                functools.partial(lambda hook: getattr(REGISTRY, hook)(two), hook),
                rf"{hook}: two\(ws, message\) is called with {said}\.",
            )
            for hook, said in {
                "on_connect": "no arguments",
                "on_ready": "no arguments",
                "on_closing": "no arguments",
                "on_disconnect": "one argument, the event",
                "on_gap": "one argument, the event",
                "on_state": "one argument, the event",
                "on_error": "one argument, the error",
            }.items()
        ],
    ],
)
def test_a_function_whose_parameters_do_not_fit_is_refused(
    register: Callable[[], object], says: str
) -> None:
    """When it is registered, not at the first message; with what it has to look like."""
    with pytest.raises(ConfigurationError, match=says):
        register()
    assert not REGISTRY.has_message_handlers


def test_a_wrapper_is_called_and_not_what_it_wraps() -> None:
    """``functools.wraps`` shows the parameters of a function that is given more, or less."""

    @functools.wraps(two)
    def with_client(message: object) -> None:
        two(None, message)

    handlers = Handlers()
    handlers.on_message(with_client)
    handlers.on_message(Owner().method)
    handlers.on_message(functools.partial(two, None))
    handlers.on_message(dict)  # type: ignore[type-var]  # no signature can be read
    assert len(handlers.message_functions) == 4


@pytest.mark.parametrize("conditions", [{"default": True}, {"coroutine": True}])
def test_what_cannot_be_inline_is_refused(conditions: dict[str, Any]) -> None:
    function = any_coroutine if conditions.pop("coroutine", False) else print
    with pytest.raises(ConfigurationError, match=r"^on_message: .*inline"):
        REGISTRY.on_message(inline=True, **conditions)(function)
    assert not REGISTRY.has_message_handlers


@pytest.mark.parametrize("base", [Handlers, Client, AsyncClient])
@pytest.mark.parametrize("name", ["on_message", "on_ready", "use"])
def test_a_subclass_must_not_have_a_decorators_name(base: type, name: str) -> None:
    """A method of that name would never be called: as in other clients, which call it."""
    says = rf"^Mine\.{name} would never be called.*self\.{name}\(self\.new_name\)"
    with pytest.raises(ConfigurationError, match=says):
        type("Mine", (base,), {name: lambda self, message: None})
    mixin = type("Mixin", (), {name: lambda self, message: None})
    with pytest.raises(ConfigurationError, match=says):
        type("Mine", (mixin, base), {})


# --- at any time ------------------------------------------------------------------------------


def test_made_up_routes_fill_no_memory(handlers: Handlers) -> None:
    """Routes are the peer's: ten thousand names leave nothing behind."""
    before = len(handlers.routing._by_route)
    for n in range(10_000):
        assert names(handlers, message(f"made up {n}")) == ["every"]
    assert len(handlers.routing._by_route) == before


def test_a_handler_counts_from_its_registration_on() -> None:
    """Also for routes that have been seen before."""
    handlers = Handlers()
    handlers.on_message("a")(function("first"))
    assert names(handlers, message("b")) == []
    handlers.on_message("b")(function("second"))
    handlers.on_message(function("third"))
    assert names(handlers, message("b")) == ["second", "third"]
    assert names(handlers, message("a")) == ["first", "third"]


def test_registration_tells_those_who_hold_messages_back() -> None:
    """A client that had no handlers may hand out what waits."""
    handlers = Handlers()
    told: list[bool] = []
    handlers.changed.add(lambda: told.append(handlers.has_message_handlers))
    handlers.on_connect(print)
    assert told == []
    handlers.on_message(function("every"))
    handlers.on_batch(function("batch"))
    assert told == [True, True]
    handlers.use(nullcontext)
    handlers.remove(print)
    assert len(told) == 4


def test_registration_while_matching() -> None:
    """From any thread, while messages are handled: no error, no half-built list, none lost."""
    handlers = Handlers()
    handlers.on_message("a")(function("h0"))
    done = threading.Event()
    wrong: list[Any] = []

    def match() -> None:
        while not done.is_set():
            found = names(handlers, message("a"))
            if found != [f"h{n}" for n in range(len(found))]:
                wrong.append(found)

    threads = [threading.Thread(target=match) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(1, 100):
        handlers.on_message("a")(function(f"h{n}"))
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(handlers.match(message("a"))) == 100


def test_fork_leaves_a_usable_registry() -> None:
    """The lock may have been held by a thread the child does not have."""
    handlers = Handlers()
    handlers.changed.add(lambda: None)
    handlers._lock.acquire()
    handlers.renew_lock()
    handlers.on_message(function("every"))
    assert names(handlers, message()) == ["every"]
    assert handlers.changed == set()
