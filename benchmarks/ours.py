"""The variants of datastream-ws, by codec, work of the handler and kind of handler.

A name is ``ours[-body]-handler``, such as ``ours-sync`` or ``ours-msgspec-async``. Without a body,
the handler calls ``message.json()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import CONTESTANTS, PATIENCE, Contestant, Stopwatch, check, finished

if TYPE_CHECKING:
    from datastream_ws import Message

__all__ = ["Variant", "tick_struct"]

BODIES = ("json", "orjson", "msgspec", "struct", "raw")
HANDLERS = ("sync", "async", "loop", "inline", "iterate", "batch")
ROUTED = ("routes", "routed", "routed-async")  # their messages are not the padded ones

Tick = Callable[[], bool]

MOST_BYTES = 16 * 2**20  # of one message, as the peers'
# Speed in terms of the bare loop, roughly; see Contestant.pace.
PACE = {"json": 1.2, "orjson": 1.5, "msgspec": 1.5, "struct": 1.5, "raw": 2.0}


@dataclass(frozen=True)
class Variant:
    """
    One way to use our client.

    Args:
        body: What a handler does: ``json``, ``orjson`` and ``msgspec`` are ``message.json()`` with
            that codec, ``struct`` is ``decode_as``, ``raw`` leaves the message alone.
        handler: ``sync``: plain function of a ``Client``; ``async``: coroutine function of an
            ``AsyncClient``; ``loop``: coroutine function of a ``Client``; ``inline``: plain
            function of a ``Client``, called on the loop; ``iterate``: ``async for`` over an
            ``AsyncClient``; ``batch``: batches of a hundred; ``routes``: one of 1,000 handlers;
            ``routed`` and ``routed-async``: one of three, of a ``Client`` or an ``AsyncClient``.
        extras: Options beside them.
        features: Everything on that costs something per message; see :func:`with_features`.

    """

    body: str = "json"
    handler: str = "sync"
    extras: dict[str, Any] = field(default_factory=dict)
    features: bool = False

    @property
    def name(self) -> str:
        body = [] if self.body == "json" else [self.body]
        return "-".join(["ours", *body, self.handler])

    @property
    def about(self) -> str:
        body = {
            "raw": "message.data left alone",
            "struct": "decode_as a msgspec.Struct",
            "json": "message.json()",
        }.get(self.body, f"message.json() with {self.body}")
        handler = {
            "sync": "Client, synchronous handler",
            "async": "AsyncClient, coroutine handler",
            "loop": "Client, coroutine handler",
            "inline": "Client, inline handler",
            "iterate": "AsyncClient, async for",
            "batch": "Client, on_batch",
            "routes": "Client, synchronous handlers of 1,000 routes",
            "routed": "Client, synchronous handlers of 3 routes",
            "routed-async": "AsyncClient, coroutine handlers of 3 routes",
        }[self.handler]
        return f"{handler}: {body}"

    @property
    def options(self) -> dict[str, Any]:
        codec = self.body if self.body in ("orjson", "msgspec") else "json"
        return {"codec": codec, "max_size": MOST_BYTES, **self.extras}

    def contestant(self, name: str = "", about: str = "") -> Contestant:
        return Contestant(name or self.name, about or self.about, self.run, PACE[self.body])

    def run(self, url: str, count: int) -> float:
        """See :class:`benchmarks.contestants.Contestant`."""
        with contextlib.ExitStack() as stack:
            options = {**self.options, **(idle_spool(stack) if self.features else {})}
            if self.handler not in ("async", "iterate", "routed-async"):
                return self._in_threads(url, count, options)
            return asyncio.run(self._on_loop(url, count, options))

    def _in_threads(self, url: str, count: int, options: dict[str, Any]) -> float:
        from datastream_ws import Client

        watch, done = Stopwatch(count), threading.Event()
        client = Client(url, **options)
        self._register(client, watch.tick, done.set)
        with client:
            check(client, done.wait(PATIENCE))
        return watch.seconds

    async def _on_loop(self, url: str, count: int, options: dict[str, Any]) -> float:
        from datastream_ws import AsyncClient

        watch, done = Stopwatch(count), asyncio.Event()
        client = AsyncClient(url, **options)
        if self.handler == "iterate":
            async with client:
                async for message in client:
                    message.json()
                    if watch.tick():
                        break
                check(client, True)
            return watch.seconds
        self._register(client, watch.tick, done.set)
        async with client:
            check(client, await finished(done))
        return watch.seconds

    def _register(self, client: Any, tick: Tick, finish: Callable[[], None]) -> None:
        """Give the client its handler."""
        body = handler_of(self.body, tick, finish)
        if self.handler == "inline":
            client.on_message(inline=True)(body)
            return
        if self.handler == "batch":
            client.on_batch(max_size=100, max_wait=0.05)(lambda some: [body(each) for each in some])
            return
        if self.handler == "routes":
            for number in range(1000):
                client.on_message(f"t{number:03}")(body)
            return
        is_plain = self.handler in ("sync", "routed")
        function = body if is_plain else coroutine_function(self.body, tick, finish)
        if self.handler.startswith("routed"):
            for route in ("book", "trade", "company"):
                client.on_message(route)(function)
            return
        if self.features:
            with_features(client, others=plain if self.handler == "sync" else coroutine)
            client.on_message("tick")(function)
        elif self.body == "struct":
            client.on_message(decode_as=tick_struct())(function)
        else:
            client.on_message(function)


def handler_of(body: str, tick: Tick, finish: Callable[[], None]) -> Callable[[Any], None]:
    """A synchronous handler that does the same work as the body of the bare loop."""

    def decoding(message: Message) -> None:
        message.json()
        if tick():
            finish()

    def given(message: Any) -> None:
        if tick():
            finish()

    return given if body in ("raw", "struct") else decoding


def coroutine_function(body: str, tick: Tick, finish: Callable[[], None]) -> Callable[[Any], Any]:
    """The same as a coroutine function."""

    async def decoding(message: Message) -> None:
        message.json()
        if tick():
            finish()

    async def given(message: Any) -> None:
        if tick():
            finish()

    return given if body in ("raw", "struct") else decoding


def tick_struct() -> type:
    """The blaster's messages, as a msgspec.Struct."""
    import msgspec

    fields = [("type", str), ("key", str), ("value", float), ("pad", str)]
    return msgspec.defstruct("Tick", fields)


# --- everything on --------------------------------------------------------------------------------


def plain(*given: Any) -> None:
    """A handler of what does not come, or a hook."""


async def coroutine(*given: Any) -> None:
    """The same as a coroutine function: a client with both kinds changes threads for each."""


class Unit:
    """A unit of work around handlers of either kind."""

    def __enter__(self) -> None: ...
    def __exit__(self, *exc_info: object) -> None: ...
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *exc_info: object) -> None: ...


def with_features(client: Any, others: Callable[..., Any]) -> None:
    """Hooks, units of work, and handlers for other messages, which look at each one's route."""
    client.use(Unit, per="run")
    client.use(Unit, per="call")
    client.on_message("other")(others)
    client.on_message(default=True)(others)
    for hook in (client.on_ready, client.on_disconnect, client.on_gap, client.on_error):
        hook(plain)


def idle_spool(stack: contextlib.ExitStack) -> dict[str, Any]:
    """Options of a client that could do more than it is asked to: a watchdog, a spool, …"""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    return {
        "handler_timeout": 30.0,
        "retry_message": lambda error: False,
        "spool": f"{folder}/idle.db",
        "inbox_size": None,  # the spool stays idle: what it costs in use is the part `adapters`'
        "inbox_bytes": None,
    }


# --- the variants ---------------------------------------------------------------------------------


def enter(found: Contestant) -> None:
    CONTESTANTS[found.name] = found


def enter_all() -> None:
    for body, handler in itertools.product(BODIES, HANDLERS):
        if handler in ("sync", "async") or body == "json":
            enter(Variant(body, handler).contestant())
    for handler in ROUTED:
        enter(Variant("json", handler).contestant())
    for handler in ("sync", "async"):
        full = Variant("json", handler, features=True)
        name = full.name.replace(f"-{handler}", f"-full-{handler}")
        enter(full.contestant(name, f"{full.about}, all features on"))


enter_all()
