"""The bootstep of a worker that runs the streams."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutting_down
from celery.worker import state as worker_state

from .. import Client, ConfigurationError, Fleet, State, StateEvent
from ..embedding import describe, fields, is_stream_of_settings, lease_for, prepare
from .broker import set_timeouts
from .commandline import refusing
from .config import WorkerConfig, spool_path
from .forwarding import bind, forwarders, publisher_of
from .sources import Stream, installations
from .status import StatusRows

__all__ = ["DatastreamStep"]

log = logging.getLogger("datastream_ws.celery")

HURRY = 0.7  # the share of close_timeout after which a publish that hangs is postponed
COLD_SECONDS = 0.9  # for the streams in a cold shutdown
PUBLISHER_SECONDS = 1.0  # for the close of a publisher's connection to the broker
EXIT_FAILED = 3


class DatastreamStep(bootsteps.StartStopStep):  # type: ignore[misc,unused-ignore]  # untyped
    """
    The bootstep that runs the installed streams in the worker's main process.

    It belongs to the *worker* blueprint, because the consumer's blueprint restarts whenever the
    broker is lost. Streams must continue then. It starts after the pool, because the pool's
    processes must be forked before the client starts threads.

    A thread begins the warm shutdown as soon as the signal arrives. Celery stops the steps only
    after it has disconnected from the broker, which takes a minute if the broker hangs.
    """

    name = "Datastream"
    label = "Datastream"
    requires = ("celery.worker.components:Pool",)
    conditional = True

    def __init__(
        self,
        worker: Any,
        datastream: bool | None = None,
        datastream_streams: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(worker, **options)
        with refusing():
            self.config = WorkerConfig.of(worker.app, datastream, datastream_streams)
        self.enabled = self.config.enabled
        self.streams: list[Stream] = []
        self.rows: StatusRows | None = None
        self._told_to_drain: SimpleQueue[None] = SimpleQueue()  # put() is safe in a signal handler
        self._drained = threading.Event()
        worker.datastream_step = self

    # --- the methods of a bootstep, which are called in the worker's main thread ---

    @refusing()
    def create(self, worker: Any) -> None:
        """Resolve the installed streams. An invalid one stops the worker with one line."""
        _refuse_green_pool(worker.pool_cls)
        self.streams = installations[worker.app].streams(self.config.names)
        for stream in self.streams:
            bind(stream.source, worker.app)
            for forwarder in forwarders(stream.source):
                forwarder.check(worker.app)
            self._prepare(stream, worker)
            lease_for(stream.client.options.lease, stream.name)  # raises now if it's invalid
        if any(forwarders(stream.source) for stream in self.streams):
            set_timeouts(worker.app)

    def start(self, worker: Any) -> None:
        """Start the clients, without waiting for their connections."""
        if found := [
            stream.client for stream in self.streams if is_stream_of_settings(stream.source)
        ]:
            self.rows = StatusRows(found)
        for stream in self.streams:
            stream.client.start()
        worker_shutting_down.connect(self._on_signal)
        threading.Thread(target=self._run_drain, name="datastream-drain", daemon=True).start()

    def stop(self, worker: Any) -> None:
        """Handle all received messages in a warm shutdown, within each ``close_timeout``."""
        self._told_to_drain.put(None)
        self._drained.wait()

    def _on_signal(self, how: str = "", **_: Any) -> None:
        if how == "Warm":
            self._told_to_drain.put(None)

    def _run_drain(self) -> None:
        self._told_to_drain.get()
        try:
            self._drain()
        finally:
            self._drained.set()

    def _drain(self) -> None:
        began = time.monotonic()
        for stream in self.streams:
            stream.client.request_close()
        for stream in self.streams:
            limit = HURRY * stream.client.options.close_timeout
            self._wait_closed(stream, began + limit)
            if forwarders(stream.source):
                publisher_of(stream.source).hurry()
        for stream in self.streams:
            stream.client.close()
        for stream in self.streams:
            if forwarders(stream.source):
                publisher_of(stream.source).close(PUBLISHER_SECONDS)
        if self.rows is not None:
            self.rows.close()

    def terminate(self, worker: Any) -> None:
        """Close immediately in a cold shutdown. Unhandled messages are spooled or dropped."""
        deadline = time.monotonic() + COLD_SECONDS
        for stream in self.streams:
            stream.client.request_close()
            stream.client.request_close()  # the second request closes immediately
        for stream in self.streams:
            self._wait_closed(stream, deadline)

    def _wait_closed(self, stream: Stream, deadline: float) -> None:
        with suppress(Exception):  # TimeoutError, or the error with which the client failed
            stream.client.wait_closed(max(0.0, deadline - time.monotonic()))

    def info(self, worker: Any) -> Any:
        """Return a line about each stream for ``celery inspect stats``."""
        lines = {stream.name: _line(stream.client) for stream in self.streams}
        return {"datastream": lines} if lines else {}

    # --- the streams ---

    def _prepare(self, stream: Stream, worker: Any) -> None:
        """Set defaults for the options that the client doesn't set itself."""
        client, options = stream.client, stream.client.options
        defaults: dict[str, Any] = {}
        if forwarders(stream.source) and options.conflate is None and "spool" not in options.chosen:
            defaults["spool"] = spool_path(worker.app.main, worker.hostname)
            if defaults["spool"] is None:
                log.warning(
                    "stream %s: no directory is available for a spool, so messages wait in memory "
                    "while the broker is unavailable; set the option spool",
                    stream.name,
                    extra=fields(stream.name),
                )
        prepare(client, foreground=self.config.stops, **defaults)
        if self.config.stops and isinstance(client, Client):  # a fleet survives failed streams
            client.on_state(stop_when_failed)


def stop_when_failed(event: StateEvent) -> None:
    """Stop the worker as after SIGTERM, with exit code 3, if the client has failed."""
    if event.state is State.FAILED:
        log.error(
            "a stream has failed permanently; the worker stops because on_fatal is 'shutdown'"
        )
        setattr(worker_state, "should_stop", EXIT_FAILED)  # noqa: B010  # stubs say None


def _refuse_green_pool(pool_cls: Any) -> None:
    module = pool_cls if isinstance(pool_cls, str) else pool_cls.__module__
    pool = module.rpartition(".")[2]
    if pool in ("gevent", "eventlet"):
        raise ConfigurationError(
            f"--datastream does not work with the {pool} pool, because its patched threads share "
            "one thread with the stream's event loop. Start this worker with -P prefork, "
            "-P threads or -P solo. Other workers of the app can keep their pool."
        )


def _line(client: Client | Fleet) -> str:
    """Return the state and the counters of a stream."""
    health = describe(client, time.time())
    unrouted = f"without a handler {health.messages_unrouted}, " if health.messages_unrouted else ""
    line = (
        f"{health.state}: received {health.messages_received}, handled {health.messages_handled}, "
        f"{unrouted}"
        f"failed {health.messages_failed}, dropped {health.messages_dropped}, "
        f"waiting {health.messages_waiting}, spooled {health.messages_spooled}, "
        f"reconnects {health.reconnects}"
    )
    if health.streams is not None:
        line += ", streams: " + (
            ", ".join(f"{number} {state}" for state, number in health.streams.items()) or "none"
        )
    return f"{line}, last error: {health.last_error}" if health.last_error else line
