"""The extension object."""

from __future__ import annotations

from typing import Any, cast

from flask import Flask, current_app

from datastream_ws import Client, ConfigurationError, Fleet, Handlers
from datastream_ws.embedding import Decorators

from .cli import group
from .streams import AppStream, streams_of

__all__ = ["DataStream"]


class DataStream(Decorators):
    """
    A WebSocket stream of Flask apps.

    Handlers are registered here, before or after any app exists, and serve every app that is
    given to :meth:`init_app`. Each app has a client of its own, in each process of its own; all
    that is the app's lives in ``app.extensions["datastream"]``.

    Every handler and hook, plain or coroutine function, is called in a fresh application context.

    With ``DATASTREAM_CONTEXT = "run"`` (default: ``"message"``), one application context serves a
    run of waiting messages, at most 100 messages or 50 ms. For quick handlers this saves most of
    the time that Flask adds to a message. Handlers of the same run share ``g`` and a
    Flask-SQLAlchemy session, so each handler must commit or roll back. Functions registered with
    ``teardown_appcontext`` are called once, when the run ends, and are given ``None``. A handler
    that raises ends the context at once, and the next handler is called in a fresh one. Hooks
    always have their own context.

    Args:
        app: Calls ``init_app(app)`` at once.
        name: ``"default"`` is configured by ``DATASTREAM_URL`` and other ``DATASTREAM_<OPTION>``,
            any other by ``DATASTREAMS = {name: {"URL": …}}``. With ``SOURCE`` in the place of
            ``URL`` it is a fleet, one stream for each row.

    """

    def __init__(self, app: Flask | None = None, *, name: str = "default") -> None:
        self.name = name
        self.handlers = Handlers()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """
        Make the stream one of *app*; starts nothing.

        Raises:
            ConfigurationError: If the app has a stream of this name already.

        """
        streams = streams_of(app)
        if self.name in streams:
            raise ConfigurationError(
                f"app {app.name!r} already has a stream {self.name!r}. Call init_app() once per "
                "app, and give a second stream another name, DataStream(name='prices')."
            )
        stream = streams[self.name] = AppStream(app, self, self.name, self.handlers)
        app.before_request(stream.autostart)
        app.cli.add_command(group)

    @property
    def client(self) -> Client:
        """
        The client of the current app in this process, with every verb and fact of a stream.

        With ``SOURCE`` it is what :attr:`fleet` is.

        Raises:
            RuntimeError: Outside of an application context.
            ConfigurationError: If the app's config is wrong, or it has no such stream.

        """
        return cast("Client", self._of(_current_app()).client)

    @property
    def fleet(self) -> Fleet:
        """
        The fleet of the current app in this process.

        Raises:
            RuntimeError: Outside of an application context.
            ConfigurationError: If the app's config is wrong, or it has no such stream.
            TypeError: If it is a stream, without ``SOURCE``.

        """
        found: Client | Fleet = self.client
        if not isinstance(found, Fleet):
            raise TypeError(f"stream {self.name!r} is not a fleet: it has no SOURCE")
        return found

    def send(self, obj: Any, wait: float = 0.0) -> None:
        """
        Send on the connection that the current app has in this process; see ``Client.send``.

        Raises:
            NotConnectedError: If there is no open connection.
            TypeError: If it is a fleet, which has many connections.

        """
        client: Client | Fleet = self.client
        if isinstance(client, Fleet):
            raise TypeError(
                f"stream {self.name!r} is a fleet. Use datastream.fleet[key].send(…), or "
                "datastream.fleet.current.send(…) in a handler."
            )
        client.send(obj, wait)

    def start(self, app: Flask) -> None:
        """
        Start the client of *app* in this process, and return immediately.

        Calling it again has no effect. Call it in the hook of a server that runs in each worker.
        Don't call it in ``create_app``, which also runs in the reloader's parent, in gunicorn's
        master and for every ``flask`` command.
        """
        self._of(app).start()

    def close(self, app: Flask, timeout: float | None = None) -> None:
        """Close the client of *app* in this process, if it has one; see ``Client.close``."""
        self._of(app).close(timeout)

    def deliver(self, app: Flask, data: Any, robust: bool = False, *, key: Any = None) -> None:
        """
        Give a message to the handlers, in this thread, without any network; for tests.

        Args:
            data: str or bytes as received, or an object to be encoded first.
            robust: Report what a handler raises, as in production, instead of raising it.
            key: Of a fleet: the key of the stream that the message is of.

        Raises:
            TypeError: If a fleet's message has no key, or another one has.

        """
        client = self._of(app).client
        if (key is not None) is not isinstance(client, Fleet):
            cure = (
                "Leave out key." if key is not None else "Pass key=…, the key of one of its rows."
            )
            kind = "a" if isinstance(client, Fleet) else "no"
            raise TypeError(f"stream {self.name!r} has {kind} SOURCE. {cure}")
        if isinstance(client, Fleet):
            client.deliver(data, robust, key=key)
        else:
            client.deliver(data, robust)

    def _of(self, app: Flask) -> AppStream:
        stream = streams_of(app).get(self.name)
        if stream is None:
            raise ConfigurationError(
                f"app {app.name!r} has no stream {self.name!r}. Call its init_app(app)."
            )
        return stream

    def __repr__(self) -> str:
        return f"<DataStream {self.name}>"


def _current_app() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # of the proxy
    return app
