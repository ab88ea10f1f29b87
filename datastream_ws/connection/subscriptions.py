"""
Subscriptions that the client sends again on every connection.

They are sent one by one, as the write queue has room for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ..exceptions import NotConnectedError
from .engine import Frame

__all__ = ["Subscription", "SubscriptionFeed", "Subscriptions"]


Ending = Frame | Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Subscription:
    """
    A message to send on every connection.

    Attributes:
        key: The name by which it is replaced or removed.
        content: A frame, or the user's callable that makes the message for each connection.
        ending: The frame that unsubscribes, or a callable that makes it. ``None`` means that
            nothing is sent.

    """

    key: Hashable
    content: Frame | Callable[[], Any]
    ending: Ending | None = None


class Subscriptions:
    """
    The subscriptions of a client, by key, in the order in which they were made.

    All methods may be called from any thread, and they don't block.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may call while its thread holds it
        self._kept: dict[Hashable, Subscription] = {}
        self._feed: SubscriptionFeed | None = None

    def add(self, subscription: Subscription) -> None:
        """
        Keep a subscription, and replace one with the same key.

        Adding an equal subscription again has no effect. A hook may therefore subscribe on each
        connection, and nothing is sent twice.
        """
        with self._lock:
            if self._kept.get(subscription.key) == subscription:
                return
            self._kept.pop(subscription.key, None)
            self._kept[subscription.key] = subscription
            # Under the lock, so that the server gets the changes of several threads in this order.
            if self._feed is not None:
                self._feed.add(subscription)

    def remove(self, key: Hashable) -> None:
        """Remove a subscription, and send its ``ending`` if it was sent on this connection."""
        with self._lock:
            subscription = self._kept.pop(key, None)
            if subscription is not None and self._feed is not None:
                self._feed.end(subscription)

    def is_kept(self, subscription: Subscription) -> bool:
        return self._kept.get(subscription.key) is subscription

    def open_feed(self, feed: SubscriptionFeed) -> list[Subscription]:
        """Pass all later changes to *feed*, and return the subscriptions so far."""
        with self._lock:
            self._feed = feed
            return list(self._kept.values())

    def close_feed(self, feed: SubscriptionFeed) -> None:
        with self._lock:
            if self._feed is feed:
                self._feed = None

    def renew_lock(self) -> None:
        """
        Replace the lock in a forked child.

        A thread that the child does not have may hold the old one.
        """
        self._lock = threading.RLock()
        self._feed = None


class Sender(Protocol):
    """The part of a connection that a feed uses."""

    @property
    def is_open(self) -> bool: ...

    def room(self) -> Future[None] | None: ...

    def send(self, frame: Frame) -> None: ...


class SubscriptionFeed:
    """
    Sends the subscriptions over one connection.

    Call it on the loop's thread. :meth:`add` and :meth:`end` may be called from any thread.

    Args:
        subscriptions: The client's subscriptions.
        connection: The connection to send over.
        frame_of: Encodes the value that a callable returned.
        call: Calls a user's callable, synchronous or a coroutine function.
        report: Called with what a callable raises after :meth:`begin` has returned.

    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        connection: Sender,
        *,
        frame_of: Callable[[Any], Frame],
        call: Callable[[Callable[[], Any]], Awaitable[Any]],
        report: Callable[[BaseException], None],
    ) -> None:
        self._subscriptions = subscriptions
        self._connection = connection
        self._frame_of = frame_of
        self._call = call
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._lock = threading.RLock()  # a finalizer may call while its thread holds it
        # Two lists, because an empty deque takes 760 bytes in every idle client. Only whole lists
        # change places, so that nothing is lost that a finalizer adds meanwhile.
        self._waiting: list[Subscription | Ending] = []
        self._leaving: list[Subscription | Ending] = []  # the next item is the last one
        self._is_busy = False  # an item was taken from the list and is not sent yet
        self._sent: set[Hashable] = set()
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False

    async def begin(self) -> None:
        """
        Send all subscriptions, and those added later behind them.

        Raises:
            NotConnectedError: If the connection is lost.
            Exception: If a user's callable raised it.

        """
        self._waiting.extend(self._subscriptions.open_feed(self))
        await self._send_waiting()
        self._has_begun = True
        self._continue()

    def close(self) -> None:
        """Stop sending. Removed subscriptions no longer reach this feed."""
        self._subscriptions.close_feed(self)
        if self._task is not None:
            self._task.cancel()

    # --- from any thread ---

    def add(self, subscription: Subscription) -> None:
        self._queue(subscription)

    def end(self, subscription: Subscription) -> None:
        """Queue the message that unsubscribes, if the subscription was sent on this connection."""
        with self._lock:
            if subscription.key not in self._sent:
                return
            self._sent.discard(subscription.key)  # the key may be used for a new subscription
        if subscription.ending is not None:
            self._queue(subscription.ending)

    def _queue(self, item: Subscription | Ending) -> None:
        with self._lock:
            if self._send_now(item):
                return
            self._waiting.append(item)
        if asyncio._get_running_loop() is self._loop:
            self._continue()
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._continue)

    @property
    def _has_waiting(self) -> bool:
        return bool(self._waiting or self._leaving)

    def _send_now(self, item: Subscription | Ending) -> bool:
        """
        Send an item in the calling thread if nothing waits before it.

        The order of the caller's other messages is then kept.
        """
        frame = item.content if isinstance(item, Subscription) else item
        if not self._has_begun or self._is_busy or self._has_waiting or callable(frame):
            return False
        if (room := self._connection.room()) is not None:
            room.cancel()  # so that it takes no sender's turn
            return False
        if isinstance(item, Subscription) and not self._mark_sent(item):
            return True
        with suppress(NotConnectedError):  # the next connection sends it
            self._connection.send(frame)
        return True

    def _mark_sent(self, subscription: Subscription) -> bool:
        """
        Record that a subscription is sent, unless it was removed or replaced.

        Hold the lock. A removal then either comes before this and prevents the sending, or finds
        the mark in :meth:`end` and unsubscribes.
        """
        is_kept = self._subscriptions.is_kept(subscription)
        if is_kept:
            self._sent.add(subscription.key)
        return is_kept

    # --- on the loop ---

    def _continue(self) -> None:
        if self._has_begun and self._has_waiting and (self._task is None or self._task.done()):
            # Not by the loop's own task factory. An eager task would begin before _task is set, and
            # a callable that subscribes would start another task beside it.
            self._task = asyncio.Task(self._send_later(), loop=self._loop)

    async def _send_later(self) -> None:
        while self._has_waiting:
            try:
                await self._send_waiting()
            except Exception as error:  # a callable may raise NotConnectedError of another client
                if not self._connection.is_open:
                    return  # the next connection sends them
                self._report(error)

    async def _send_waiting(self) -> None:
        try:
            while (item := self._next()) is not None:
                if (room := self._connection.room()) is not None:
                    await asyncio.wrap_future(room)
                if (frame := await self._frame(item)) is not None:
                    self._connection.send(frame)
        finally:
            self._is_busy = False

    def _next(self) -> Subscription | Ending | None:
        with self._lock:
            if not self._leaving:
                self._leaving, self._waiting = self._waiting, self._leaving
                self._leaving.reverse()
            self._is_busy = bool(self._leaving)
            return self._leaving.pop() if self._leaving else None

    async def _frame(self, item: Subscription | Ending) -> Frame | None:
        """Return the frame of an item. ``None`` means that it was removed or replaced meanwhile."""
        content: Frame | Callable[[], Any]
        if isinstance(item, Subscription):
            with self._lock:
                if not self._mark_sent(item):
                    return None
            content = item.content
        else:
            content = item
        return self._frame_of(await self._call(content)) if callable(content) else content
