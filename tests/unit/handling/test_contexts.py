"""What use() promises of the contexts around handlers, in every way they are called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from datastream_ws import (
    Client,
    ConfigurationError,
    Message,
    Postponed,
)
from datastream_ws.handlers import Call
from kit.rigs import BOTH, Lost, noted, stream, until
from kit.scene import Stream as OfflineStream
from kit.scene import play

URL = "ws://127.0.0.1:1/"


@dataclass
class Decoded:
    type: str


def test_a_context_sees_what_the_handler_raised_and_may_take_it() -> None:
    client = Client(URL)
    seen: list[BaseException] = []

    @client.use
    @contextmanager
    def witness() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(error)
            raise

    @client.on_message
    def handle(message: Message) -> None:
        raise ValueError(message.data)

    with pytest.raises(ValueError, match="one"):
        client.deliver("one")
    assert [str(error) for error in seen] == ["one"]
    client.use(lambda: suppress(ValueError))
    client.deliver("two")
    assert len(seen) == 1  # the inner context has taken it


def test_contexts_are_entered_in_order_around_each_call() -> None:
    client = Client(URL)
    seen: list[str] = []

    def context(name: str) -> None:
        @client.use
        @contextmanager
        def entered() -> Iterator[None]:
            seen.append(f"+{name}")
            yield
            seen.append(f"-{name}")

    context("outer")
    context("inner")
    client.on_message(lambda message: seen.append("first"))
    client.on_message(lambda message: seen.append("second"))
    client.deliver("x")
    around = ["+outer", "+inner", "{}", "-inner", "-outer"]
    assert seen == [step.format(name) for name in ("first", "second") for step in around]


def test_an_asynchronous_context_leaves_plain_handlers_alone() -> None:
    client = Client(URL)
    seen: list[str] = []

    @client.use
    @asynccontextmanager
    async def entered():  # type: ignore[no-untyped-def]  # an async iterator
        seen.append("entered")
        yield

    client.on_message(lambda message: seen.append("plain"))
    client.deliver("x")
    assert seen == ["plain"]


def test_a_failing_message_of_a_stream_meets_its_contexts_once_per_try() -> None:
    """Over a connection, where plain handlers take the short way."""
    seen: list[str] = []

    async def scene(stream: OfflineStream) -> None:
        @stream.client.use
        @contextmanager
        def witness() -> Iterator[None]:
            try:
                yield
            except (KeyError, ValueError) as error:
                seen.append(type(error).__name__)
                raise

        @stream.client.on_message
        def handle(message: Message) -> None:
            if message.data == "retried" and "KeyError" not in seen:
                raise KeyError
            if message.data == "failed":
                raise ValueError
            seen.append(str(message.data))

        await stream.start()
        await stream.receive("one", "retried", "failed", "two")
        stats = stream.client.stats()
        assert (stats.messages_handled, stats.messages_failed) == (3, 1)

    play(scene, retry_message=lambda error: isinstance(error, KeyError))
    assert seen == ["one", "KeyError", "retried", "ValueError", "two"]


def test_a_factory_that_takes_an_argument_is_given_the_call() -> None:
    client = Client(URL)
    seen: list[tuple[str, str, list[str | bytes], str]] = []

    @client.use
    @contextmanager
    def about(call: Call) -> Iterator[None]:
        kind, name = call.handler.kind, call.handler.name.rpartition(".")[2]
        seen.append((kind, name, [message.data for message in call.messages], call.hook))
        yield

    @client.on_message
    def plain(message: Message) -> None: ...

    @client.on_message("a", decode_as=Decoded)
    def decoded(obj: Decoded) -> None: ...

    @client.on_message
    async def coroutine(message: Message) -> None: ...

    @client.on_batch
    def batch(messages: list[Message]) -> None: ...

    client.deliver('{"type":"a"}')
    data = ['{"type":"a"}']
    assert seen == [
        ("message", "plain", data, ""),
        ("message", "decoded", data, ""),
        ("message", "coroutine", data, ""),
        ("batch", "batch", data, ""),
    ]


@pytest.mark.parametrize("is_async", [False, True])
def test_the_call_in_a_running_client(is_async: bool) -> None:
    """Messages on the direct way, and hooks."""
    seen: list[tuple[str, list[str | bytes]]] = []

    @asynccontextmanager
    async def on_loop(call: Call) -> AsyncIterator[None]:
        seen.append((call.hook, [message.data for message in call.messages]))
        yield

    @contextmanager
    def in_thread(call: Call) -> Iterator[None]:
        seen.append((call.hook, [message.data for message in call.messages]))
        yield

    async def coroutine(*arguments: object) -> None: ...

    async def scene(stream: OfflineStream) -> None:
        stream.client.use(on_loop if is_async else in_thread)
        stream.client.on_ready(coroutine if is_async else lambda: None)
        stream.client.on_message(coroutine if is_async else lambda message: None)
        await stream.start()
        await stream.receive("hello")

    play(scene)
    assert sorted(seen) == [("", ["hello"]), ("on_ready", [])]


def test_a_run_has_no_call_to_be_told_of() -> None:
    with pytest.raises(ConfigurationError, match="must not need an argument"):
        Client(URL).use(lambda call: suppress(ValueError), per="run")


def test_arguments_with_defaults_stay_the_factory_s_own() -> None:
    client = Client(URL)
    seen: list[str] = []

    @client.use
    @contextmanager
    def factory(using: str = "default") -> Iterator[None]:
        seen.append(using)
        yield

    client.on_message(lambda message: None)
    client.deliver("x")
    assert seen == ["default"]


# --- in the runs of a dispatcher ---


@BOTH
async def test_contexts_around_calls_and_runs(is_async: bool) -> None:
    """Entered in order of use(); per call anew each time, per run once."""
    async with stream() as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handlers.use(noted(s.log, "outer"))
        s.handlers.use(noted(s.log, "inner"))
        s.handler(is_async=is_async)
        s.open = False
        s.put("a", "b")
        s.open = True
        s.dispatcher.wake()
        await s.drain()
        calls = [["+outer", "+inner", route, "-inner", "-outer"] for route in ("a", "b")]
        assert s.log == ["+run", *calls[0], *calls[1], "-run"]


@BOTH
async def test_contexts_see_what_the_handler_raised(is_async: bool) -> None:
    """Those per call; a transaction rolls back."""
    async with stream() as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handlers.use(noted(s.log, "call"))

        async def broken(message: Message) -> None:
            raise ZeroDivisionError

        s.handlers.on_message(broken if is_async else lambda message: 1 / 0)
        s.put("a")
        await s.drain()
        assert s.log == ["+run", "+call", "!call ZeroDivisionError", "-call", "-run"]


@pytest.mark.parametrize("why", ["retry", "postponed"])
@BOTH
async def test_again_means_contexts_anew(why: str, is_async: bool) -> None:
    """A retried message runs on a fresh connection and outside a rolled-back transaction."""
    async with stream(retry_message=lambda error: isinstance(error, Lost)) as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handlers.use(noted(s.log, "call"))
        error = Lost() if why == "retry" else Postponed(0)

        def plain(message: Message) -> None:
            s.log.append("called")
            if s.log.count("called") == 1:
                raise error

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        s.put("a")
        await s.drain()
        failed = ["+run", "+call", "called", f"!call {type(error).__name__}", "-call", "-run"]
        assert s.log == [*failed, "+run", "+call", "called", "-call", "-run"]


@pytest.mark.parametrize("options", [{}, {"handler_timeout": 60.0}], ids=["direct", "watched"])
@BOTH
async def test_a_failure_ends_the_contexts_of_the_run(
    options: dict[str, Any], is_async: bool
) -> None:
    """What a failed handler has left there, a broken transaction, is not the next message's."""
    async with stream(**options) as s:
        s.handlers.use(noted(s.log, "run"), per="run")

        def plain(message: Message) -> None:
            s.log.append(message.route)
            if message.route == "bad":
                raise Lost

        async def coroutine(message: Message) -> None:
            plain(message)

        s.handlers.on_message(coroutine if is_async else plain)
        s.handlers.on_message("bad")(lambda message: s.log.append("other"))
        s.put("a", "bad", "b", "c")
        await s.drain()
        assert s.log[:5] == ["+run", "a", "bad", "-run", "+run"]
        assert [entry for entry in s.log if entry in ("a", "bad", "other", "b", "c")] == [
            "a",
            "bad",
            "other",
            "b",
            "c",
        ]


async def test_contexts_are_told_of_the_call_of_the_only_handler() -> None:
    """A factory that takes an argument is given the handler and its message; one of runs, none."""
    async with stream() as s:

        def told(call: Call) -> Any:
            s.log.append((call.handler.function, [each.route for each in call.messages], call.hook))
            return nullcontext()

        def handle(message: Message) -> None:
            s.log.append(message.route)

        s.handlers.use(noted(s.log, "run"), per="run")
        s.handlers.use(told)
        s.handlers.on_message(handle)
        s.put("a", "b")
        await s.drain()
        assert s.log == ["+run", (handle, ["a"], ""), "a", (handle, ["b"], ""), "b", "-run"]


@pytest.mark.parametrize("per", ["call", "run"])
@BOTH
async def test_context_that_cannot_be_entered(per: Any, is_async: bool) -> None:
    """The message failed, with that error; the stream goes on."""
    async with stream() as s:
        s.handlers.use(lambda: 1 / 0, per=per)  # type: ignore[type-var]
        s.handler(is_async=is_async)
        s.put("a", "b")
        counts = await s.drain()
        assert (counts.failed, s.log) == (2, [])
        assert s.errors == ["ZeroDivisionError"] * 2


@pytest.mark.parametrize("per", ["call", "run"])
@BOTH
async def test_what_is_no_context(per: Any, is_async: bool) -> None:
    """A factory of something else is an error; else nothing of it would ever run."""
    async with stream() as s:
        s.handlers.use(lambda: iter([]), per=per)  # type: ignore[type-var]
        s.handler(is_async=is_async)
        s.put("a")
        counts = await s.drain()
        assert (counts.failed, s.log, s.errors) == (1, [], ["TypeError"])


async def test_context_of_a_run_that_cannot_be_left() -> None:
    """Reported; the messages were handled."""
    async with stream() as s:

        @contextmanager
        def broken() -> Iterator[None]:
            yield
            raise Lost

        s.handlers.use(broken, per="run")
        s.handler()
        s.put("a")
        counts = await s.drain()
        await until(lambda: s.reported)
        assert (counts.handled, s.log, s.errors) == (1, ["a"], ["Lost"])


@pytest.mark.parametrize("kind", ["only", "routes", "several", "decoded"])
async def test_contexts_around_coroutine_handlers(kind: str) -> None:
    """In each way of finding them; synchronous and asynchronous contexts, in their order."""
    async with stream() as s:

        @asynccontextmanager
        async def waiting(call: Call) -> AsyncIterator[None]:
            s.log.append(f"+{str(call.messages[0].route)[0]}")
            yield
            await asyncio.sleep(0)
            s.log.append("-")

        async def handle(given: Any) -> None:
            await asyncio.sleep(0)
            s.log.append(type(given).__name__)

        @asynccontextmanager
        async def run() -> AsyncIterator[None]:
            await asyncio.sleep(0)
            s.log.append("+run")
            yield
            s.log.append("-run")

        s.handlers.use(run, per="run")
        s.handlers.use(noted(s.log, "call"))
        s.handlers.use(waiting)
        if kind == "routes":
            s.handlers.on_message("a")(handle)
            s.handlers.on_message("b")(handle)
        else:
            s.handlers.on_message(decode_as=Decoded if kind == "decoded" else None)(handle)
        if kind == "several":

            @s.handlers.on_message("a")
            async def another(given: Message) -> None:
                await handle(given)

        s.put("a", "b", "a", "unknown")
        counts = await s.drain()
        given = "Decoded" if kind == "decoded" else "Message"
        a, b, u = (["+call", f"+{data}", given, "-", "-call"] for data in "abu")
        expected = {"routes": [a, b, a], "several": [a, a, b, a, a, u]}.get(kind, [a, b, a, u])
        assert s.log == ["+run", *(entry for call in expected for entry in call), "-run"]
        assert counts.unrouted == (kind == "routes")
        calls = {name: stats.calls for name, stats in s.dispatcher.timings.stats().items()}
        assert sum(calls.values()) == len(expected)
        assert not s.reported


class Both:
    """A context of both kinds, which suppresses every exception."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def __enter__(self) -> None:
        self.log.append("sync")

    def __exit__(self, *error: object) -> bool:
        return True

    async def __aenter__(self) -> None:
        self.log.append("async")

    async def __aexit__(self, *error: object) -> bool:
        return True


@pytest.mark.parametrize("kind", ["sync", "async", "both"])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_context_may_take_what_a_coroutine_handler_raised(
    kind: str, concurrency: int
) -> None:
    async with stream(concurrency=concurrency) as s:

        @asynccontextmanager
        async def waiting() -> AsyncIterator[None]:
            with suppress(Lost):
                yield

        s.handlers.use(nullcontext)
        if kind == "both":
            s.handlers.use(lambda: Both([]))
        else:
            s.handlers.use((lambda: suppress(Lost)) if kind == "sync" else waiting)

        @s.handlers.on_message
        async def handle(message: Message) -> None:
            s.log.append(message.route)
            raise Lost

        s.put("a", "b")
        counts = await s.drain()
        assert (counts.handled, counts.failed, s.log) == (2, 0, ["a", "b"])


async def test_run_contexts_are_not_entered_for_messages_without_handlers() -> None:
    async with stream() as s:
        s.handlers.use(noted(s.log, "run"), per="run")
        s.handler(route="a", is_async=True)
        s.handler(route="b", is_async=True)
        s.put("unknown")
        await s.drain()
        assert s.log == []


async def test_asynchronous_contexts() -> None:
    """Around coroutine handlers only."""
    async with stream() as s:

        @asynccontextmanager
        async def context() -> AsyncIterator[None]:
            s.log.append("+")
            yield
            s.log.append("-")

        s.handlers.use(context)
        s.handler(route="plain")
        s.handler(route="async", is_async=True)
        s.put("plain", "async")
        await s.drain()
        assert s.log == ["plain", "+", "async", "-"]
