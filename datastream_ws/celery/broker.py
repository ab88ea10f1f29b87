"""The connection of a publishing thread to the broker."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from kombu.exceptions import KombuError, OperationalError

__all__ = ["BrokerConnection", "set_timeouts"]

log = logging.getLogger("datastream_ws.celery")

TIMEOUT = 5.0  # seconds that each step of a publish may take

# Options by the driver type of kombu's transports. Without them, a publish waits indefinitely for
# a broker that doesn't respond. The user's broker_transport_options take precedence.
TIMEOUTS: dict[str, dict[str, float]] = {
    "redis": {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT},
    "amqp": {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT},
}
# Options that the user can't change. Without confirms, RabbitMQ can lose messages.
REQUIRED: dict[str, dict[str, Any]] = {"amqp": {"confirm_publish": True}}
PUBLISH: dict[str, dict[str, float]] = {"amqp": {"timeout": TIMEOUT, "confirm_timeout": TIMEOUT}}


class BrokerConnection:
    """
    A connection to the broker for publishing, with timeouts and publisher confirms.

    Only one thread may use it, except for :meth:`sever`.

    Args:
        app: The Celery app.
        said: The names of options that were already logged. It's updated here.

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
        """The errors of the broker and the network. Any other error is caused by the message."""
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
        """Return the producer, and connect if there is no connection yet."""
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
        """Close the connection. It blocks for a limited time."""
        with suppress(KombuError, *self.errors):
            self._connection.release()

    def sever(self) -> None:
        """Shut down the sockets, so that a thread blocked in them continues. It may block."""
        with suppress(Exception):
            self._connection.collect(TIMEOUT)


def set_timeouts(app: Any) -> None:
    """
    Set the timeouts of a worker's broker connections that the user hasn't set.

    Without timeouts, Celery waits indefinitely for a broker that doesn't respond, also during the
    worker's shutdown. An idle worker isn't affected.
    """
    missing = missing_timeouts(app, driver_of(app))
    _tell_once(missing, set())
    if missing:
        app.conf.broker_transport_options = {**_chosen(app), **missing}


def driver_of(app: Any) -> str:
    """Return the driver type of the transport, without a connection."""
    driver: str = app.connection_for_write().transport.driver_type
    return driver


def missing_timeouts(app: Any, driver: str) -> dict[str, float]:
    """Return the timeouts that ``broker_transport_options`` don't set."""
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
