"""
Every order of events: verbs from two callers, and what the world does, in thousands of orders.

No socket, no thread, and the clock jumps. What must hold after every step is below, under
"invariants"; `make test ARGS="-m soak -k orders"` tries 50,000 orders.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datastream_ws import AsyncClient, HandshakeError, Message, NotConnectedError, State
from kit.fakeengine import FakeEngine, InlineThreads, World
from kit.virtualtime import VirtualLoop

CODES = (1000, 1001, 1008, 1011, 1012, 1013, 4000, 4001, 4401)
TIMES = (0.0, 0.0, 0.02, 0.5, 3.0, 40.0)  # seconds; 0 is one turn of the loop
OVERFLOWS = ("block", "drop_oldest", "drop_newest", "disconnect")
BAD_HOOKS = ("fine", "fine", "fine", "raises", "hangs", "late")

Outcome = Exception | None


class Orders(RuleBasedStateMachine):
    """One client over a world without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.world = World()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(
            "datastream_ws.connection.websockets_engine.WebsocketsEngine", self.world.engine
        )
        self.patch.setattr("datastream_ws.async_client.threads", InlineThreads)
        self.hooks = {"on_connect": "fine", "on_ready": "fine"}
        self.handled: list[tuple[int, int]] = []
        self.slow = 0.0
        self.reports: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.client: AsyncClient
        self.was_closed = False
        self.subscribed: set[str] = set()

    @hypothesis.stateful.initialize(
        overflow=st.sampled_from(OVERFLOWS),
        fatal_delay=st.sampled_from([None, 5.0]),
        rate=st.sampled_from([None, (2, 1.0)]),
        handlers=st.sampled_from(["coroutine", "plain", "none"]),
        on_connect=st.booleans(),
    )
    def make(
        self,
        overflow: str,
        fatal_delay: float | None,
        rate: tuple[int, float] | None,
        handlers: str,
        on_connect: bool,
    ) -> None:
        self.loop.run_until_complete(
            self.make_here(overflow, fatal_delay, rate, handlers, on_connect)
        )

    async def make_here(
        self,
        overflow: str,
        fatal_delay: float | None,
        rate: tuple[int, float] | None,
        handlers: str,
        on_connect: bool,
    ) -> None:
        options: Any = dict(
            overflow=overflow,
            fatal_delay=fatal_delay,
            send_rate=rate,
            inbox_size=5,
            max_reconnect_attempts=None,
            close_timeout=2.0,
            ready_timeout=4.0,
            idle_timeout=100.0,
            heartbeat="beat",
            heartbeat_interval=20.0,
        )
        client = self.client = AsyncClient("ws://fake", **options)
        if handlers == "coroutine":
            client.on_message(self.handle_on_loop)
        elif handlers == "plain":
            client.on_message(self.handle)
        if on_connect:
            client.on_connect(lambda: None)
            client.on_connect(self.hook("on_connect"))
        client.on_ready(self.hook("on_ready"))
        client.on_disconnect(self.reports.append)
        await client.start()

    # --- the user's code ---

    def handle(self, message: Message) -> None:
        self.handled.append((message.epoch, message.seq))

    async def handle_on_loop(self, message: Message) -> None:
        self.handle(message)
        if self.slow:
            await asyncio.sleep(self.slow)

    def hook(self, kind: str) -> Callable[[], Any]:
        async def hook() -> None:
            await self.client.send(kind)
            behaviour = self.hooks[kind]
            if behaviour == "raises":
                raise LookupError(kind)
            if behaviour == "hangs":
                await asyncio.Event().wait()
            if behaviour == "late":
                await asyncio.sleep(1.0)

        return hook

    def spawn(self, make: Callable[[], Any]) -> None:
        """A second caller: it goes on while other things happen."""

        async def call() -> None:
            try:
                await make()
            except (NotConnectedError, TimeoutError, HandshakeError, LookupError):
                pass
            except Exception as error:
                if error is not self.client.error:
                    raise

        self.tasks.append(self.loop.create_task(call()))

    # --- the verbs ---

    @rule()
    def start(self) -> None:
        if self.client.state.is_final:  # while it closes, a start has no effect
            self.was_closed = False
        self.spawn(self.client.start)

    @rule(code=st.sampled_from([1000, 1001, 4000]))
    def pause(self, code: int) -> None:
        self.spawn(lambda: self.client.pause(code, "pause"))

    @rule()
    def resume(self) -> None:
        self.spawn(self.client.resume)

    @rule()
    def reconnect(self) -> None:
        self.spawn(self.client.reconnect)

    @rule(timeout=st.sampled_from([None, 0.0, 0.3, 5.0]))
    def close(self, timeout: float | None) -> None:
        self.was_closed = True
        self.spawn(lambda: self.client.close(timeout))

    @rule(wait=st.sampled_from([0.0, 1.0]), size=st.sampled_from([1, 2000, 2**20]))
    def send(self, wait: float, size: int) -> None:
        self.spawn(lambda: self.client.send("s" * size, wait=wait))

    @rule(key=st.sampled_from("abc"))
    def subscribe(self, key: str) -> None:
        self.subscribed.add(key)
        self.spawn(lambda: self.client.subscribe(f"subscribe {key}", key, f"unsubscribe {key}"))

    @rule(key=st.sampled_from("abc"))
    def unsubscribe(self, key: str) -> None:
        self.subscribed.discard(key)
        self.spawn(lambda: self.client.unsubscribe(key))

    @rule()
    def request(self) -> None:
        self.spawn(lambda: self.client.request("?", lambda m: m.data == "!", timeout=2.0))

    @rule()
    def flush(self) -> None:
        self.spawn(lambda: self.client.flush(2.0))

    @rule()
    def wait_ready(self) -> None:
        self.spawn(lambda: self.client.wait_ready(5.0))

    # --- the world ---

    @rule(seconds=st.sampled_from(TIMES))
    def time_passes(self, seconds: float) -> None:
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
                self.happens(engine.take_bytes)

    @rule(answers=st.booleans())
    def peer_answers_close(self, answers: bool) -> None:
        self.world.answers_close = answers

    @rule(kind=st.sampled_from(["on_connect", "on_ready"]), how=st.sampled_from(BAD_HOOKS))
    def hooks_behave(self, kind: str, how: str) -> None:
        self.hooks[kind] = how

    @rule(slow=st.sampled_from([0.0, 0.2, 5.0]))
    def handlers_slow(self, slow: float) -> None:
        self.slow = slow

    @precondition(lambda self: self.world.open_engines)
    @rule()
    def drop(self) -> None:
        self.happens(self.engine.drop)

    @precondition(lambda self: self.world.open_engines)
    @rule(code=st.sampled_from(CODES), lingers=st.booleans())
    def peer_closes(self, code: int, lingers: bool) -> None:
        self.happens(lambda: self.engine.peer_closes(code, "bye", lingers=lingers))

    @precondition(lambda self: self.world.open_engines)
    @rule(count=st.integers(1, 12), data=st.sampled_from(["x", "!"]))
    def deliver(self, count: int, data: str) -> None:
        self.happens(lambda: self.engine.deliver(*[data] * count))

    @precondition(lambda self: self.world.open_engines)
    @rule()
    def pong(self) -> None:
        self.happens(self.engine.pong)

    def happens(self, what: Callable[[], None]) -> None:
        """Call *what* as the loop would, amid whatever goes on."""
        asyncio._set_running_loop(self.loop)
        try:
            what()
        finally:
            asyncio._set_running_loop(None)

    @property
    def engine(self) -> FakeEngine:
        return self.world.open_engines[-1]

    # --- invariants ---

    @invariant()
    def holds(self) -> None:
        assert len(self.world.open_engines) <= 1, "two connections"
        self.counters_add_up()
        self.ready_means_ready()
        self.nothing_is_sent_twice_on_one_connection()
        assert len(set(self.handled)) == len(self.handled), "handled twice"

    def counters_add_up(self) -> None:
        stats = self.client.stats()
        dropped = sum(stats.messages_dropped.values())
        accounted = stats.messages_handled + stats.messages_failed + dropped
        assert stats.messages_received == accounted + stats.messages_waiting

    def ready_means_ready(self) -> None:
        if self.client.is_ready:
            assert self.engine.is_open
            assert self.client.error is None
        if self.client.is_connected:
            assert self.world.open_engines

    def nothing_is_sent_twice_on_one_connection(self) -> None:
        for engine in self.world.engines:
            for hook in ("on_connect", "on_ready"):
                assert engine.sent.count(hook) <= 1
            if "on_connect" in engine.sent:
                assert engine.sent[0] == "on_connect", "something was sent before the login"

    # --- the end ---

    def teardown(self) -> None:
        try:
            self.comes_back()
            self.ends()
        finally:
            self.patch.undo()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.pass_time(0)
            self.loop.close()

    def comes_back(self) -> None:
        """READY, or a reason: once the world is well again."""
        self.world.opens.clear()
        self.world.is_hanging = False
        self.network_stuck(False)
        self.world.answers_close = True
        self.hooks = dict.fromkeys(self.hooks, "fine")
        self.slow = 0.0
        state = self.client.state
        if state.is_final or self.was_closed:
            return
        self.spawn(self.client.resume)
        for _ in range(100):  # not for good: no pong comes by itself
            self.loop.pass_time(1.0)
            state = self.client.state
            if state is State.READY or state.is_final:
                break
        self.loop.pass_time(5.0)  # for what send_rate holds back
        assert state is State.READY or (state is State.FAILED and self.client.error is not None)
        if state is State.READY:
            sent = self.engine.sent
            for key in self.subscribed:
                assert sent.count(f"subscribe {key}") >= 1

    def ends(self) -> None:
        self.spawn(lambda: self.client.close(1.0))
        self.loop.pass_time(60.0)
        assert self.client.state in (State.CLOSED, State.FAILED)
        assert self.world.open_engines == []
        left = [task for task in self.tasks if not task.done()]
        assert left == []
        for task in self.tasks:
            task.result()
        assert [t for t in asyncio.all_tasks(self.loop) if "datastream" in t.get_name()] == []


def run(orders: int, steps: int) -> None:
    hypothesis.stateful.run_state_machine_as_test(
        Orders,
        settings=hypothesis.settings(
            max_examples=orders,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.timeout(600)
def test_orders() -> None:
    run(int(os.environ.get("ORDERS", "400")), 30)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_50_000_orders() -> None:
    run(50_000, 40)
