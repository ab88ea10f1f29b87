"""
The publisher of a stream's messages, with a time limit.

A publish runs on a thread that can be abandoned. The timeouts of a transport don't cover every
step, such as a DNS lookup, a disk or the transport's retries. The handler waits for that thread,
but not longer than LIMIT.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from .. import Postponed
from ..embedding import about, fields, in_child, peer_text
from .broker import BrokerConnection

__all__ = ["LIMIT", "Publisher"]

log = logging.getLogger("datastream_ws.celery")

LIMIT = 15.0  # seconds for one publish, including the connection
HURRIED_LIMIT = 0.5  # the same during shutdown, when the message must return to the spool
UNTIL_THE_END = 3600.0
LONGEST_DELAY = 2.0  # seconds between attempts while the broker is unavailable
LOG_EVERY = 30.0  # seconds between warnings that the broker is unavailable
MOST_ABANDONED = 8  # threads that may hang at the same time

Send = Callable[[Any, dict[str, Any]], None]


class Publisher:
    """
    The publisher of a stream or fleet. It publishes one message at a time on one connection.

    If a publish fails, the message is postponed. The handler then gets the same message again,
    before any other, so the order is kept. It's thread-safe, and resets itself in a forked child.

    Args:
        name: The name of the stream, for the log.

    """

    def __init__(self, name: str) -> None:
        self._name = peer_text(name)
        self._said: set[str] = set()
        self.forget_parent()
        in_child(self.forget_parent)

    def forget_parent(self) -> None:
        """Reset the state, because thread, lock and connection of the parent can't be used."""
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._abandoned: list[Worker] = []
        self._is_hurried = False
        self._failures = 0
        self._failing_since = 0.0
        self._warned_at = 0.0
        self._delay = 0.0

    def publish(self, app: Any, send: Send) -> None:
        """
        Call ``send(producer, publish_options)`` on the publishing thread, and wait for it.

        Raises:
            Postponed: If the broker is unavailable, refuses, or doesn't respond in time.
            Exception: Any other exception that *send* raises.

        """
        failures = self._failures
        with self._lock:
            if self._failures > failures:  # another stream of the fleet failed meanwhile
                raise Postponed(self._delay)
            worker = self._worker or self._new_worker(app)
            job = worker.submit(send)
            if (waited := self._wait(job)) is not None:
                self._abandon(worker)
                raise self._postponed(TimeoutError(f"no response within {waited:.1f} s"))
            if job.error is None:
                if self._failures:
                    self._recovered()
                return
            if not isinstance(job.error, worker.errors):
                raise job.error
            self._worker = None
            worker.end()
            raise self._postponed(job.error) from job.error

    def _wait(self, job: Job) -> float | None:
        """Wait for a job. Return ``None`` if it's done, or the seconds if it has timed out."""
        begun = time.monotonic()
        while not job.done.acquire(timeout=0.1):
            waited = time.monotonic() - begun
            if waited > (HURRIED_LIMIT if self._is_hurried else LIMIT):
                return waited
        return None

    def hurry(self) -> None:
        """Shorten the limit before the stream ends, so that a publish that hangs is postponed."""
        self._is_hurried = True

    def _new_worker(self, app: Any) -> Worker:
        self._abandoned = [worker for worker in self._abandoned if worker.is_alive()]
        if len(self._abandoned) >= MOST_ABANDONED:
            raise self._postponed(TimeoutError(f"{MOST_ABANDONED} publishes hang at once"))
        self._worker = Worker(app, self._said, self._name)
        return self._worker

    def _abandon(self, worker: Worker) -> None:
        self._worker = None
        self._abandoned.append(worker)
        worker.abandon()

    def _postponed(self, error: BaseException) -> Postponed:
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        if self._failures == 1 or now - self._warned_at >= LOG_EVERY:
            self._warned_at = now
            log.warning(
                "stream %s: the broker is unavailable (%s: %s); messages wait, and are published "
                "in order when it is available again",
                self._name,
                type(error).__name__,
                peer_text(error),
                extra=fields(self._name, **about(error)),
            )
        if self._is_hurried:  # the message waits until the end, and then returns to the spool
            self._delay = UNTIL_THE_END
            return Postponed(UNTIL_THE_END)
        longest = min(LONGEST_DELAY, 0.1 * 2 ** min(self._failures, 10))
        self._delay = random.uniform(longest / 2, longest)
        return Postponed(self._delay)

    def _recovered(self) -> None:
        seconds = time.monotonic() - self._failing_since
        extra = fields(self._name)
        log.info(
            "stream %s: the broker is available again after %.1f s",
            self._name,
            seconds,
            extra=extra,
        )
        self._failures = 0

    def close(self, timeout: float) -> None:
        """Close the broker connection, and wait for it at most *timeout* seconds."""
        deadline = time.monotonic() + timeout
        self._is_hurried = False  # the stream may be started again
        if not self._lock.acquire(timeout=timeout):
            return  # a publish hangs until the process ends
        try:
            worker, self._worker = self._worker, None
        finally:
            self._lock.release()
        if worker is not None:
            worker.end()
            worker.join(max(0.0, deadline - time.monotonic()))


class Job:
    """One publish. The lock *done* is released when it has ended."""

    __slots__ = ("done", "error", "send")

    def __init__(self, send: Send) -> None:
        self.send = send
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


class Worker(threading.Thread):
    """A daemon thread with its own connection to the broker."""

    def __init__(self, app: Any, said: set[str], name: str) -> None:
        super().__init__(name=f"datastream-publish-{name}", daemon=True)
        self.errors: tuple[type[BaseException], ...] = (OSError,)
        self._app = app
        self._said = said
        self._broker: BrokerConnection | None = None
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.start()

    def submit(self, send: Send) -> Job:
        job = Job(send)
        self._jobs.put(job)
        return job

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._do(job.send)
            except BaseException as error:
                job.error = error
            job.done.release()
        if self._broker is not None:
            self._broker.close()

    def _do(self, send: Send) -> None:
        broker = self._broker
        if broker is None:
            broker = self._broker = BrokerConnection(self._app, self._said)
            self.errors = broker.errors
        send(broker.producer(), broker.publish_options)

    def end(self) -> None:
        """Request that the thread closes its connection and ends, without waiting."""
        self._jobs.put(None)

    def abandon(self) -> None:
        """Abandon a thread that hangs. It ends when its sockets are shut down, or earlier."""
        self.end()
        broker = self._broker
        if broker is not None:
            threading.Thread(target=broker.sever, name="datastream-sever", daemon=True).start()
