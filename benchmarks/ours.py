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
ROUTED = ("routes", "routed", "routed-async")  # which get messages of other kinds

Tick = Callable[[], bool]

MOST_BYTES = 16 * 2**20  # of a message, as for the other clients
# The approximate speed relative to the bare loop, see Contestant.pace.
PACE = {"json": 1.2, "orjson": 1.5, "msgspec": 1.5, "struct": 1.5, "raw": 2.0}


@dataclass(frozen=True)
class Variant:
    """
    A way to use datastream-ws.

    Args:
        body: The work of the handler. ``json``, ``orjson`` and ``msgspec`` call ``message.json()``
            with that codec, ``struct`` uses ``decode_as``, and ``raw`` decodes nothing.
        handler: The kind of handler, as described in :attr:`about`.
        extras: More options of the client.
        features: Whether to enable all features that cost time per message, see
            :func:`with_features`.

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
        """Receive *count* messages, and return the seconds."""
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
        """Register the handler."""
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
    """Return a synchronous handler with the same work as the bare loop."""

    def decoding(message: Message) -> None:
        message.json()
        if tick():
            finish()

    def given(message: Any) -> None:
        if tick():
            finish()

    return given if body in ("raw", "struct") else decoding


def coroutine_function(body: str, tick: Tick, finish: Callable[[], None]) -> Callable[[Any], Any]:
    """Return the same handler as a coroutine function."""

    async def decoding(message: Message) -> None:
        message.json()
        if tick():
            finish()

    async def given(message: Any) -> None:
        if tick():
            finish()

    return given if body in ("raw", "struct") else decoding


def tick_struct() -> type:
    """Return a msgspec.Struct for the messages of the blaster."""
    import msgspec

    fields = [("type", str), ("key", str), ("value", float), ("pad", str)]
    return msgspec.defstruct("Tick", fields)


# --- all features --------------------------------------------------------------------------------


def plain(*given: Any) -> None:
    """Do nothing. It is a hook, or a handler of messages that never come."""


async def coroutine(*given: Any) -> None:
    """Do nothing. With both kinds of handlers, a client would change threads for each message."""


class Unit:
    """A context for handlers of both kinds, which does nothing."""

    def __enter__(self) -> None: ...
    def __exit__(self, *exc_info: object) -> None: ...
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *exc_info: object) -> None: ...


def with_features(client: Any, others: Callable[..., Any]) -> None:
    """Register hooks, contexts and handlers for other routes, so that each route is read."""
    client.use(Unit, per="run")
    client.use(Unit, per="call")
    client.on_message("other")(others)
    client.on_message(default=True)(others)
    for hook in (client.on_ready, client.on_disconnect, client.on_gap, client.on_error):
        hook(plain)


def idle_spool(stack: contextlib.ExitStack) -> dict[str, Any]:
    """Return options that enable a watchdog, retries and a spool that stays empty."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    return {
        "handler_timeout": 30.0,
        "retry_message": lambda error: False,
        "spool": f"{folder}/idle.db",
        "inbox_size": None,  # so that the spool stays empty; the part `adapters` measures its use
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
