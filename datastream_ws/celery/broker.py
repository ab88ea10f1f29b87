"""The connection that one publishing thread has to the broker."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from kombu.exceptions import KombuError, OperationalError

__all__ = ["BrokerConnection", "set_timeouts"]

log = logging.getLogger("datastream_ws.celery")

TIMEOUT = 5.0  # seconds that each step of a publish may take

# By driver type of kombu's transports: options without which a silent broker is waited for, for
# ever. What broker_transport_options say wins.
TIMEOUTS: dict[str, dict[str, float]] = {
    "redis": {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT},
    "amqp": {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT},
}
# Those that cannot be left to the user: without confirms RabbitMQ loses what it has accepted.
REQUIRED: dict[str, dict[str, Any]] = {"amqp": {"confirm_publish": True}}
PUBLISH: dict[str, dict[str, float]] = {"amqp": {"timeout": TIMEOUT, "confirm_timeout": TIMEOUT}}


class BrokerConnection:
    """
    One connection to the broker for publishing, with timeouts and publisher confirms.

    Used by one thread; :meth:`sever` may be called from another one.

    Args:
        app: The Celery app whose broker it is.
        said: Names of options that the log has told of already; filled here.

    """

    def __init__(self, app: Any, said: set[str]) -> None:
        driver = driver_of(app)
        missing = missing_timeouts(app, driver)
        _tell_once(missing, said)
        options = missing | REQUIRED.get(driver, {})
        self.publish_options = PUBLISH.get(driver, {})
        self._connection = app.connection_for_write(transport_options=options)
        self._producer: Any = None
        self._app = app

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """What the broker and the way to it raise; anything else is the message's fault."""
        connection = self._connection
        return (
            OperationalError,
            OSError,
            *connection.recoverable_connection_errors,
            *connection.recoverable_channel_errors,
            *connection.connection_errors,
            *connection.channel_errors,
        )

    def producer(self) -> Any:
        """Return the producer of this connection, which is opened when there is none yet."""
        if self._producer is None:
            brokers = len(self._connection.alt) or 1
            self._connection.ensure_connection(
                max_retries=brokers - 1,
                interval_start=0,
                interval_step=0,
                timeout=TIMEOUT * brokers,
            )
            self._producer = self._app.amqp.Producer(self._connection.channel(), auto_declare=False)
        return self._producer

    def close(self) -> None:
        """Say goodbye to the broker; blocks, but not for ever."""
        with suppress(KombuError, *self.errors):
            self._connection.release()

    def sever(self) -> None:
        """Shut the sockets down, so that a thread blocked in them goes on. May block itself."""
        with suppress(Exception):
            self._connection.collect(TIMEOUT)


def set_timeouts(app: Any) -> None:
    """
    Give all of a worker's connections the timeouts that its user has not thought of.

    Celery's own would wait for a silent broker without end, at the worker's shutdown too. An idle
    worker does not notice them.
    """
    missing = missing_timeouts(app, driver_of(app))
    _tell_once(missing, set())
    if missing:
        app.conf.broker_transport_options = {**_chosen(app), **missing}


def driver_of(app: Any) -> str:
    """Return the type of the transport; opens no connection."""
    driver: str = app.connection_for_write().transport.driver_type
    return driver


def missing_timeouts(app: Any, driver: str) -> dict[str, float]:
    """Return those that ``broker_transport_options`` say nothing of."""
    chosen = _chosen(app)
    return {name: value for name, value in TIMEOUTS.get(driver, {}).items() if name not in chosen}


def _chosen(app: Any) -> dict[str, Any]:
    return dict(app.conf.broker_transport_options or {})


def _tell_once(missing: dict[str, float], said: set[str]) -> None:
    new = missing.keys() - said
    said |= new
    if new:
        log.info(
            "broker connections use %s, because broker_transport_options sets no timeouts and a "
            "silent broker would block the worker indefinitely",
            ", ".join(f"{name}={missing[name]:g}" for name in sorted(new)),
        )
