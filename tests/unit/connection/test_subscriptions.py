"""Subscriptions: kept, sent on each connection, in pieces, never twice."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from datastream_ws import NotConnectedError
from datastream_ws.codecs import JSON, frame_of
from datastream_ws.connection.engine import Frame
from datastream_ws.connection.subscriptions import Subscription, SubscriptionFeed, Subscriptions


class FakeConnection:
    """Takes frames while there is room."""

    def __init__(self, room: int = 1000) -> None:
        self.sent: list[str] = []
        self.free = room
        self.is_lost = False
        self.waiting: deque[Future[None]] = deque()

    @property
    def is_open(self) -> bool:
        return not self.is_lost

    def room(self) -> Future[None] | None:
        if self.free > 0 or self.is_lost:
            return None
        self.waiting.append(Future())
        return self.waiting[-1]

    def make_room(self, frames: int) -> None:
        self.free += frames
        while self.waiting:
            if (future := self.waiting.popleft()).set_running_or_notify_cancel():
                future.set_result(None)

    def send(self, frame: Frame) -> None:
        if self.is_lost:
            raise NotConnectedError("lost")
        self.free -= 1
        self.sent.append(frame[1].decode())


async def call(function: Callable[[], Any]) -> Any:
    await asyncio.sleep(0)
    return function()


class SlowFeed:
    """Its end() takes as long as another thread needs to subscribe again."""

    def __init__(self, again: Callable[[], None]) -> None:
        self.log: list[str] = []
        self.thread = threading.Thread(target=again)

    def add(self, subscription: Subscription) -> None:
        self.log.append("add")

    def end(self, subscription: Subscription) -> None:
        self.thread.start()
        self.thread.join(0.1)
        self.log.append("end")


class Rig:
    def __init__(self) -> None:
        self.subscriptions = Subscriptions()
        self.errors: list[BaseException] = []

    def feed(self, connection: FakeConnection) -> SubscriptionFeed:
        return SubscriptionFeed(
            self.subscriptions,
            connection,
            frame_of=lambda obj: frame_of(obj, JSON),
            call=call,
            report=self.errors.append,
        )

    def add(self, *keys: str, ending: str | None = None) -> None:
        for key in keys:
            end = None if ending is None else (True, ending.encode())
            self.subscriptions.add(Subscription(key, (True, key.encode()), end))


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_look_for_room_takes_nobodys_turn() -> None:
    """Its future stayed among those that wait, and was woken in the place of a sender."""
    rig, connection = Rig(), FakeConnection(room=0)
    await rig.feed(connection).begin()
    rig.add("a")
    await turns()
    looked, waits = connection.waiting
    assert looked.cancelled()
    connection.free = 1
    waits.set_result(None)
    await turns()
    assert connection.sent == ["a"]


async def test_a_finalizer_may_unsubscribe_while_its_thread_subscribes() -> None:
    """The thread held the lock of the feed, and waited for it forever."""
    rig, connection = Rig(), FakeConnection()
    await rig.feed(connection).begin()
    rig.add("old", ending="end of old")
    send, collected = connection.send, iter([True])

    def send_with_garbage(frame: Frame) -> None:
        if next(collected, False):
            rig.subscriptions.remove("old")
        send(frame)

    connection.send = send_with_garbage  # type: ignore[method-assign]
    adding = threading.Thread(target=rig.add, args=("new",), daemon=True)
    adding.start()
    await asyncio.to_thread(adding.join, 10)
    assert not adding.is_alive()
    await turns()
    assert sorted(connection.sent) == ["end of old", "new", "old"]


async def test_all_are_sent_in_order_of_their_making() -> None:
    rig, first, second = Rig(), FakeConnection(), FakeConnection()
    rig.add("a", "b", "c")
    for connection in (first, second):
        feed = rig.feed(connection)
        await feed.begin()
        feed.close()
        assert connection.sent == ["a", "b", "c"]


async def test_one_that_comes_before_its_time_waits() -> None:
    rig, connection = Rig(), FakeConnection()
    feed = rig.feed(connection)
    rig.add("early")
    await turns()
    assert connection.sent == []
    await feed.begin()
    assert connection.sent == ["early"]


async def test_the_same_again_is_not_sent_again() -> None:
    """So that a hook may subscribe on each connection."""
    rig, connection = Rig(), FakeConnection()
    rig.add("a")
    feed = rig.feed(connection)
    await feed.begin()
    rig.add("a")
    rig.subscriptions.add(Subscription("a", (True, b"another")))
    await turns()
    assert connection.sent == ["a", "another"]


async def test_added_in_the_callers_thread_where_nothing_is_in_the_way() -> None:
    """What a thread sends behind a subscription goes out behind it."""
    rig, connection = Rig(), FakeConnection()
    feed = rig.feed(connection)
    await feed.begin()
    thread = threading.Thread(target=rig.add, args=("from a thread",))
    thread.start()
    thread.join()
    assert connection.sent == ["from a thread"]


async def test_in_pieces_as_there_is_room() -> None:
    rig, connection = Rig(), FakeConnection(room=2)
    rig.add(*"abcde")
    begun = asyncio.create_task(rig.feed(connection).begin())
    await turns()
    assert connection.sent == ["a", "b"]
    connection.make_room(2)
    await turns()
    assert connection.sent == ["a", "b", "c", "d"]
    assert not begun.done()
    connection.make_room(2)
    await begun
    assert connection.sent == [*"abcde"]


async def test_live_ones_wait_for_room_too_and_keep_their_order() -> None:
    rig, connection = Rig(), FakeConnection(room=0)
    feed = rig.feed(connection)
    await feed.begin()
    rig.add("a", "b")
    await turns()
    rig.add("c")
    connection.make_room(9)
    await turns()
    assert connection.sent == ["a", "b", "c"]


async def test_added_in_a_thread_while_there_is_no_room() -> None:
    """The loop sends it; a loop that is closed needs no more of it."""
    rig, connection = Rig(), FakeConnection(room=0)
    feed = rig.feed(connection)
    await feed.begin()
    await asyncio.to_thread(rig.add, "a")
    await turns()
    assert connection.sent == []
    connection.make_room(9)
    await turns()
    assert connection.sent == ["a"]
    feed._loop = asyncio.new_event_loop()
    feed._loop.close()
    connection.free = 0
    await asyncio.to_thread(rig.add, "b")
    assert connection.sent == ["a"]


async def test_a_callable_is_called_for_each_connection() -> None:
    rig, numbers = Rig(), iter(range(9))
    rig.subscriptions.add(Subscription("x", lambda: {"from": next(numbers)}))
    for expected in ('{"from":0}', '{"from":1}'):
        connection = FakeConnection()
        await rig.feed(connection).begin()
        assert connection.sent == [expected]


async def test_a_callable_that_raises() -> None:
    """On the way to READY that is a failed attempt; later it is reported, and the next is sent."""
    rig, connection = Rig(), FakeConnection()
    feed = rig.feed(connection)
    await feed.begin()
    rig.subscriptions.add(Subscription("x", lambda: 1 / 0))
    rig.add("next")
    await turns()
    assert isinstance(rig.errors[0], ZeroDivisionError)
    assert connection.sent == ["next"]
    with pytest.raises(ZeroDivisionError):
        await rig.feed(FakeConnection()).begin()


async def test_unsubscribed() -> None:
    """Ended at the server if it was sent there; what was not sent yet is not sent at all."""
    rig, connection = Rig(), FakeConnection()
    rig.add("sent", ending="end")
    feed = rig.feed(connection)
    await feed.begin()
    rig.add("later", ending="end of later")
    rig.subscriptions.remove("sent")
    rig.subscriptions.remove("unknown")
    await turns()
    assert connection.sent == ["sent", "later", "end"]
    feed.close()
    rig.subscriptions.remove("later")
    again = FakeConnection()
    await rig.feed(again).begin()
    assert again.sent == []


async def test_unsubscribed_without_a_word() -> None:
    """As a server needs none; the key may be used again."""
    rig, connection = Rig(), FakeConnection()
    await rig.feed(connection).begin()
    rig.add("a")
    rig.subscriptions.remove("a")
    await turns()
    assert connection.sent == ["a"]
    rig.add("a")
    assert connection.sent == ["a", "a"]


async def test_ended_once_however_often_it_is_wanted_and_not() -> None:
    """The second one never had its turn: there is nothing to end."""
    rig, connection = Rig(), FakeConnection(room=1)
    feed = rig.feed(connection)
    rig.add("a", ending="-a")
    await feed.begin()
    for _ in range(2):
        rig.subscriptions.remove("a")
        rig.add("a", ending="-a")
    rig.subscriptions.remove("a")
    connection.make_room(10)
    await turns()
    assert connection.sent == ["a", "-a"]
    rig.add("a", ending="-a")
    rig.subscriptions.remove("a")
    await turns()
    assert connection.sent == ["a", "-a", "a", "-a"]


async def test_unsubscribed_before_its_turn() -> None:
    rig, connection = Rig(), FakeConnection(room=1)
    rig.add("a", "b", ending="end")
    begun = asyncio.create_task(rig.feed(connection).begin())
    await turns()
    rig.subscriptions.remove("b")
    rig.add("c")
    connection.make_room(9)
    await begun
    assert "end" not in connection.sent
    assert connection.sent[-1] == "c"


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_connection_that_is_lost(is_busy: bool) -> None:
    """The next one sends it."""
    rig, connection = Rig(), FakeConnection(room=0 if is_busy else 9)
    feed = rig.feed(connection)
    await feed.begin()
    if is_busy:
        rig.add("a")
        await turns()
    connection.is_lost = True
    connection.make_room(1)
    rig.add("b")
    await turns()
    assert connection.sent == []
    assert rig.errors == []


async def test_after_a_fork_the_lock_is_a_new_one() -> None:
    rig = Rig()
    rig.subscriptions._lock.acquire()
    rig.subscriptions.renew_lock()
    rig.add("a")


class Racing(Subscriptions):
    """While a thread looks whether a subscription is kept, another one removes it."""

    def is_kept(self, subscription: Subscription) -> bool:
        kept = super().is_kept(subscription)
        self.removing = threading.Thread(target=self.remove, args=(subscription.key,))
        self.removing.start()
        self.removing.join(0.2)
        return kept


@pytest.mark.parametrize("has_begun", [False, True])
async def test_removed_in_the_moment_in_which_it_is_sent(has_begun: bool) -> None:
    rig, connection = Rig(), FakeConnection()
    rig.subscriptions = racing = Racing()
    feed = rig.feed(connection)
    if has_begun:
        await feed.begin()
    rig.add("a", ending="end a")
    if not has_begun:
        await feed.begin()
    await asyncio.to_thread(racing.removing.join)
    await turns()
    assert connection.sent == ["a", "end a"]


async def test_removed_before_it_could_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread removes it between the two steps of `add`."""
    rig, connection = Rig(), FakeConnection()
    feed = rig.feed(connection)
    await feed.begin()
    add = feed.add

    def late(subscription: Subscription) -> None:
        rig.subscriptions.remove(subscription.key)
        add(subscription)

    monkeypatch.setattr(feed, "add", late)
    rig.add("a", ending="end a")
    assert connection.sent == []


def test_the_server_gets_the_changes_of_threads_in_the_order_of_the_client() -> None:
    """Otherwise the client keeps a subscription of which the server was told the end last."""
    rig = Rig()
    rig.add("a")
    feed = SlowFeed(lambda: rig.add("a"))
    rig.subscriptions.open_feed(feed)  # type: ignore[arg-type]
    rig.subscriptions.remove("a")
    feed.thread.join(5)
    assert feed.log == ["end", "add"]


async def test_a_callable_that_needs_another_client_stops_nothing() -> None:
    """Its NotConnectedError was taken for the end of this connection."""
    rig, connection = Rig(), FakeConnection()
    feed = rig.feed(connection)
    await feed.begin()

    def content() -> str:
        raise NotConnectedError("another client")

    rig.subscriptions.add(Subscription("broken", content))
    rig.add("a", "b")
    for _ in range(10):
        await asyncio.sleep(0)
    assert connection.sent == ["a", "b"]
    assert [str(error) for error in rig.errors] == ["another client"]
