"""
Every order of events: verbs from two callers, and what the world does, in thousands of orders.

No socket, no thread, and the clock jumps. What must hold after every step is below, under
"invariants"; `make test ARGS="-m soak -k orders"` tries 50,000 orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from datastream_ws import AsyncClient, DataStreamError, HandshakeError, Message, State
from kit.fakeengine import FakeEngine
from kit.offline import FakeLease, Log, Offline

CODES = (1000, 1001, 1008, 1011, 1012, 1013, 4000, 4001, 4401)
TIMES = (0.0, 0.0, 0.02, 0.5, 3.0, 40.0)  # seconds; 0 is one turn of the loop
OVERFLOWS = ("block", "drop_oldest", "drop_newest", "disconnect")
HANDLERS = ("coroutine", "plain", "inline", "none")
BAD_HOOKS = ("fine", "fine", "fine", "raises", "hangs", "late")

# What a caller may do, by its name and its arguments; all of it goes on while other things happen.
VERBS: tuple[tuple[Any, ...], ...] = (
    ("start",),
    ("pause", 1000),
    ("pause", 4000),
    ("resume",),
    ("reconnect",),
    ("reconnect", 1001),
    ("close", None),
    ("close", 0.0),
    ("close", 0.3),
    ("close", 5.0),
    ("send", 1, 0.0),
    ("send", 1, 1.0),
    ("send", 2000, 0.0),
    ("send", 2**20, 1.0),
    ("subscribe", "a"),
    ("subscribe", "b"),
    ("unsubscribe", "a"),
    ("unsubscribe", "b"),
    ("request",),
    ("receive",),
    ("iterate", 1),
    ("iterate", 5),
    ("flush",),
    ("wait_ready",),
)
SWITCHES = (("pause", 1000), ("resume",), ("reconnect",), ("start",))
verbs = st.sampled_from(VERBS)
back_to_back = st.lists(verbs, min_size=2, max_size=4) | st.lists(
    st.sampled_from(SWITCHES), min_size=2, max_size=4
)

URLS = ("ws://a", "ws://b", "ws://c")


STABLE_AFTER = 10.0  # seconds, the default


class UrlOrder(Log):
    """
    The client's logger: whether the URLs of a list are tried in turn, by what it says.

    A failed attempt goes on to the next URL; a connection that was ready for ``stable_after`` is
    none, and its URL is tried again.

    Args:
        urls: How many there are.
        clock: That of the client.

    """

    def __init__(self, urls: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._urls = urls
        self._clock = clock
        self._times: list[float] = []
        self._read = 0  # lines
        self._at = 0
        self._expected: int | None = 0  # None: either, for the clocks may differ by a little
        self._ready_at: float | None = None

    def info(self, text: str, *arguments: Any, exc_info: Any = None) -> None:
        super().info(text, *arguments)
        self._times.append(self._clock())

    debug = warning = error = info

    def check(self) -> None:
        """Not while it logs: a client does not care for what its logger raises."""
        for line, at in zip(self.lines[self._read :], self._times[self._read :], strict=True):
            self._read += 1
            self._read_line(line, at)

    def _read_line(self, line: str, at: float) -> None:
        if "connecting to " in line:
            self._at = URLS.index(line.rpartition(" ")[2])
            assert self._expected in (None, self._at), "a URL out of turn"
            self._expected, self._ready_at = self._at, None
        elif line.endswith(": ready"):
            self._ready_at = at
        elif "; attempt " in line:
            self._expected = self._next(0.0 if self._ready_at is None else at - self._ready_at)
        elif line.endswith((": closed", ": failed")):
            self._expected = 0

    def _next(self, ready_for: float) -> int | None:
        if abs(ready_for - STABLE_AFTER) < 0.1:
            return None
        return self._at if ready_for > STABLE_AFTER else (self._at + 1) % self._urls


class Orders(RuleBasedStateMachine):
    """One client over a world without a network."""

    client: AsyncClient

    def __init__(self) -> None:
        super().__init__()
        self.offline = Offline()
        self.loop = self.offline.loop
        self.world = self.offline.world
        self.lease: FakeLease | None = None
        self.hooks = {"on_connect": "fine", "on_ready": "fine", "on_closing": "fine"}
        self.handled: list[tuple[int, int]] = []
        self.slow = 0.0
        self.fails = False
        self.is_iterated = False
        self.reports_go_on = asyncio.Event()
        self.reports_go_on.set()
        self.tasks: list[asyncio.Task[Any]] = []
        self.was_closed = False
        self.subscribed: set[str] = set()

    @initialize(
        overflow=st.sampled_from(OVERFLOWS),
        fatal_delay=st.sampled_from([None, 5.0]),
        rate=st.sampled_from([None, (2, 1.0)]),
        handlers=st.sampled_from(HANDLERS),
        hooks=st.booleans(),
        leased=st.booleans(),
        urls=st.integers(1, 3),
        begins_ready=st.sampled_from([True, True, False]),
    )
    def make(self, begins_ready: bool, **choices: Any) -> None:
        self.loop.run_until_complete(self.make_here(**choices))
        if begins_ready:
            self.loop.pass_time(1.0)

    async def make_here(
        self,
        overflow: str,
        fatal_delay: float | None,
        rate: tuple[int, float] | None,
        handlers: str,
        hooks: bool,
        leased: bool,
        urls: int,
    ) -> None:
        self.url_order = UrlOrder(urls, self.loop.time)
        self.lease = FakeLease() if leased else None
        options: Any = dict(
            name="orders",
            logger=self.url_order,
            overflow=overflow,
            fatal_delay=fatal_delay,
            send_rate=rate,
            lease=self.lease,
            inbox_size=5,
            max_reconnect_attempts=None,
            close_timeout=2.0,
            ready_timeout=4.0,
            idle_timeout=100.0,
            heartbeat="beat",
            heartbeat_interval=20.0,
        )
        client = self.client = AsyncClient(list(URLS[:urls]), **options)
        if handlers == "coroutine":
            client.on_message(self.handle_on_loop)
        elif handlers == "plain":
            client.on_message(self.handle)
        elif handlers == "inline":
            client.on_message(inline=True)(self.handle)
        if hooks:
            client.on_connect(lambda: None)
            client.on_connect(self.hook("on_connect"))
            client.on_closing(self.hook("on_closing"))
        client.on_ready(self.hook("on_ready"))
        client.on_disconnect(self.told)
        client.on_error(self.told)
        client.on_state(self.told)
        await client.start()

    # --- the user's code ---

    def handle(self, message: Message) -> None:
        self.handled.append((message.epoch, message.seq))
        if self.fails:
            raise LookupError("a handler")

    async def handle_on_loop(self, message: Message) -> None:
        self.handle(message)
        if self.slow:
            await asyncio.sleep(self.slow)

    async def told(self, _: object) -> None:
        await self.reports_go_on.wait()

    def hook(self, kind: str) -> Callable[[], Any]:
        async def hook() -> None:
            await self.client.send(kind)
            await self.client.subscribe("subscribe h", "h", "unsubscribe h")
            behaviour = self.hooks[kind]
            if behaviour == "raises":
                raise LookupError(kind)
            if behaviour == "hangs":
                await asyncio.Event().wait()
            if behaviour == "late":
                await asyncio.sleep(1.0)

        return hook

    # --- the verbs ---

    async def iterate(self, count: int) -> None:
        """Take so many messages, and leave."""
        if self.is_iterated or self.client.handlers.has_message_handlers:
            return
        self.is_iterated = True
        try:
            async for message in self.client:
                self.handled.append((message.epoch, message.seq))
                count -= 1
                if not count:
                    return
        except DataStreamError:
            pass
        finally:
            self.is_iterated = False

    def coroutine(self, name: str, *arguments: Any) -> Any:
        client = self.client
        if name == "send":
            size, wait = arguments
            return client.send("s" * size, wait)
        if name == "subscribe":
            (key,) = arguments
            return client.subscribe(f"subscribe {key}", key, f"unsubscribe {key}")
        if name == "request":
            return client.request("?", lambda m: m.data == "!", timeout=2.0)
        if name == "receive":
            return client.receive(lambda m: m.data == "!", timeout=2.0)
        if name in ("flush", "wait_ready"):
            return getattr(client, name)(3.0)
        return getattr(client, name)(*arguments)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(self.loop.create_task(coroutine))

    async def call(self, name: str, *arguments: Any) -> None:
        if name == "iterate":
            self.spawn(self.iterate(*arguments))
            return
        self.note(name, *arguments)
        with suppress(DataStreamError, TimeoutError, LookupError):
            await self.coroutine(name, *arguments)

    def note(self, name: str, *arguments: Any) -> None:
        """Keep what must hold later; when the verb is called, not when it was chosen."""
        if name == "close":
            self.was_closed = True
        elif name == "start" and self.client.state.is_final:  # else it has no effect
            self.was_closed = False
        elif name == "subscribe":
            self.subscribed.add(*arguments)
        elif name == "unsubscribe":
            self.subscribed.discard(*arguments)

    @rule(verb=verbs)
    def verb(self, verb: tuple[Any, ...]) -> None:
        self.spawn(self.call(*verb))

    @rule(several=back_to_back)
    def verbs_back_to_back(self, several: list[tuple[Any, ...]]) -> None:
        """One caller, who awaits each; no time passes in between where nothing waits."""

        async def call_all() -> None:
            for verb in several:
                await self.call(*verb)

        self.spawn(call_all())

    # --- the world ---

    @rule(seconds=st.sampled_from(TIMES))
    def time_passes(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    @rule(seconds=st.sampled_from(TIMES))
    def more_time_passes(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    @rule(status=st.sampled_from([503, 500, 429, 404, 401]))
    def refuse_next(self, status: int) -> None:
        self.world.opens.append(HandshakeError("refused", status=status))

    @rule(hanging=st.booleans())
    def dials_hang(self, hanging: bool) -> None:
        self.world.is_hanging = hanging

    @rule(stuck=st.booleans())
    def network_stuck(self, stuck: bool) -> None:
        self.world.is_stuck = stuck
        if not stuck:
            for engine in self.world.engines:
                self.loop.call_soon(engine.take_bytes)

    @rule(answers=st.booleans())
    def peer_answers_close(self, answers: bool) -> None:
        self.world.answers_close = answers

    @rule(
        kind=st.sampled_from(["on_connect", "on_ready", "on_closing"]),
        how=st.sampled_from(BAD_HOOKS),
    )
    def hooks_behave(self, kind: str, how: str) -> None:
        self.hooks[kind] = how

    @rule(slow=st.sampled_from([0.0, 0.2, 5.0]), fails=st.booleans())
    def handlers_behave(self, slow: float, fails: bool) -> None:
        self.slow = slow
        self.fails = fails

    @rule(hang=st.booleans())
    def reports_hang(self, hang: bool) -> None:
        if hang:
            self.reports_go_on.clear()
        else:
            self.loop.call_soon(self.reports_go_on.set)

    @precondition(lambda self: self.lease is not None)
    @rule(what=st.sampled_from(["grant", "take_away", "hang"]))
    def lease_changes(self, what: str) -> None:
        self.loop.call_soon(getattr(self.lease, what))

    @precondition(lambda self: self.world.engines)
    @rule(
        what=st.sampled_from(["drop", "pong"]),
    )
    def network(self, what: str) -> None:
        self.loop.call_soon(getattr(self.engine, what))

    @precondition(lambda self: self.world.engines)
    @rule(code=st.sampled_from(CODES), lingers=st.booleans())
    def peer_closes(self, code: int, lingers: bool) -> None:
        engine = self.engine
        self.loop.call_soon(lambda: engine.peer_closes(code, "bye", lingers=lingers))

    @precondition(lambda self: self.world.engines)
    @rule(count=st.integers(1, 12), data=st.sampled_from(["x", "!"]))
    def deliver(self, count: int, data: str) -> None:
        self.loop.call_soon(self.engine.deliver, *[data] * count)

    @property
    def engine(self) -> FakeEngine:
        return self.world.engines[-1]

    # --- invariants ---

    @invariant()
    def holds(self) -> None:
        assert len(self.world.open_engines) <= 1, "two connections"
        self.counters_add_up()
        self.ready_means_ready()
        self.nothing_is_sent_twice_on_one_connection()
        assert len(set(self.handled)) == len(self.handled), "handled twice"
        assert self.offline.broken == []
        self.url_order.check()

    def counters_add_up(self) -> None:
        stats = self.client.stats()
        dropped = sum(stats.messages_dropped.values())
        accounted = stats.messages_handled + stats.messages_failed + dropped
        assert stats.messages_received == accounted + stats.messages_waiting

    def ready_means_ready(self) -> None:
        if self.client.is_ready:
            assert self.engine.is_open
            assert self.engine.closed_with is None, "ready, though it has been said goodbye"
            assert self.client.error is None
        if self.client.is_connected:
            assert self.world.open_engines

    def nothing_is_sent_twice_on_one_connection(self) -> None:
        for engine in self.world.engines:
            for hook in self.hooks:
                assert engine.sent.count(hook) <= 1
            if "on_connect" in engine.sent:
                assert engine.sent[0] == "on_connect", "something was sent before the login"
            self.subscriptions_alternate(engine)

    def subscriptions_alternate(self, engine: FakeEngine) -> None:
        """Nothing is subscribed twice, or ended that is not there, on one connection."""
        for key in "abh":
            words = (f"subscribe {key}", f"unsubscribe {key}")
            said = [data for data in engine.sent if data in words]
            assert said[::2] == [words[0]] * len(said[::2]), "a subscription is sent twice"
            assert said[1::2] == [words[1]] * len(said[1::2]), "a subscription is sent twice"

    # --- the end ---

    def teardown(self) -> None:
        try:
            if hasattr(self, "client"):
                self.comes_back()
                self.ends()
        finally:
            self.offline.close()

    def comes_back(self) -> None:
        """READY, or a reason: once the world is well again, and all verbs are through."""
        self.world.opens.clear()
        self.world.is_hanging = False
        self.network_stuck(False)
        self.world.answers_close = True
        self.hooks = dict.fromkeys(self.hooks, "fine")
        self.slow = 0.0
        if self.lease is not None:
            self.loop.call_soon(self.lease.grant)
        self.loop.pass_time(100.0)
        self.spawn(self.call("resume"))
        state = self.settled(150)
        if state is State.CLOSED:
            assert self.was_closed
        elif state is State.FAILED:
            assert self.client.error is not None
        else:
            assert state is State.READY
            engine, subscribed = self.engine, set(self.subscribed)
            self.loop.pass_time(10.0)  # send_rate
            for key in subscribed:
                assert engine.sent.count(f"subscribe {key}") >= 1
        self.holds()

    def settled(self, seconds: int) -> State:
        """Let time pass until the client is where it stays; return its state."""
        for _ in range(seconds):
            self.loop.pass_time(1.0)
            if self.client.state is State.READY or self.client.state.is_final:
                break
        return self.client.state

    def ends(self) -> None:
        self.reports_go_on.clear()
        self.spawn(self.call("close", 1.0))
        self.loop.pass_time(4.0)
        assert self.client.state.is_final, self.client.state
        assert self.world.open_engines == []
        left = [task for task in self.tasks if not task.done()]
        assert left == []
        for task in self.tasks:
            task.result()
        assert [t for t in asyncio.all_tasks(self.loop) if "datastream" in t.get_name()] == []
        assert self.client.stats().messages_waiting == 0
        self.holds()


def run(orders: int, steps: int, seed: int | None = None) -> None:
    machine = type("Orders", (Orders,), {})
    if seed is not None:
        hypothesis.seed(seed)(machine)
    hypothesis.stateful.run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=orders,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 21))
def test_orders(seed: int) -> None:
    run(100, 30, seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(1, 51))
def test_50_000_orders(part: int) -> None:
    """In fifty parts, for as many cores as there are; other orders each time."""
    run(1000, 40)
