"""The Flask extension."""

from __future__ import annotations

from typing import Any, cast

from flask import Flask, current_app

from datastream_ws import Client, ConfigurationError, Fleet, Handlers
from datastream_ws.embedding import Decorators, check_key

from .cli import group
from .streams import AppStream, streams_of

__all__ = ["DataStream"]


class DataStream(Decorators):
    """
    A WebSocket stream of Flask apps.

    You can register handlers here before or after an app exists. They serve every app that is
    passed to :meth:`init_app`. Each app has its own client in each process, in
    ``app.extensions["datastream"]``.

    Every handler and hook is called in a new application context.

    With ``DATASTREAM_CONTEXT = "run"`` (default: ``"message"``), one application context serves a
    run of waiting messages, at most 100 messages or 50 ms. For fast handlers this saves most of
    the time that Flask adds to a message. Handlers of the same run share ``g`` and a
    Flask-SQLAlchemy session, so each handler must commit or roll back. Functions registered with
    ``teardown_appcontext`` are called once with ``None``, when the run ends. A handler that raises
    an exception ends the context, and the next handler is called in a new one. Hooks always have
    their own context.

    Args:
        app: The app to pass to :meth:`init_app`. ``None`` leaves that call to you.
        name: The name of the stream. ``"default"`` is configured by ``DATASTREAM_URL`` and the
            other ``DATASTREAM_<OPTION>`` settings. Any other name is configured by
            ``DATASTREAMS = {name: {"URL": …}}``. With ``SOURCE`` instead of ``URL``, the stream is
            a fleet, with one stream for each row.

    """

    def __init__(self, app: Flask | None = None, *, name: str = "default") -> None:
        self.name = name
        self.handlers = Handlers()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """
        Add the stream to *app*, without starting it.

        Raises:
            ConfigurationError: If the app already has a stream with this name.

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
        The client of the current app in this process, see :class:`datastream_ws.Client`.

        With ``SOURCE`` it's the same as :attr:`fleet`.

        Raises:
            RuntimeError: If there is no application context.
            ConfigurationError: If the app's config is invalid, or the app has no such stream.

        """
        return cast("Client", self._of(current_app).client)

    @property
    def fleet(self) -> Fleet:
        """
        The fleet of the current app in this process.

        Raises:
            RuntimeError: If there is no application context.
            ConfigurationError: If the app's config is invalid, or the app has no such stream.
            TypeError: If the stream has no ``SOURCE``.

        """
        found: Client | Fleet = self.client
        if not isinstance(found, Fleet):
            raise TypeError(
                f"stream {self.name!r} is not a fleet, because it has no SOURCE. Use "
                "datastream.client instead."
            )
        return found

    def send(self, obj: Any, wait: float = 0.0) -> None:
        """
        Queue a message for sending, on the connection of the current app in this process.

        It's thread-safe. It blocks, at most ``write_timeout``, only while the write queue is full
        or ``send_rate`` holds it back.

        Args:
            obj: A str becomes a text frame, and bytes become a binary frame. The codec encodes
                any other object.
            wait: Seconds to wait for a connection if there is none.

        Raises:
            RuntimeError: If there is no application context.
            NotConnectedError: If there is no open connection.
            SendTimeoutError: If the queue stays full.
            TypeError: If the stream is a fleet, which has many connections.

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

        Calling it again has no effect. Call it in a server hook that runs in each worker process.
        Don't call it in ``create_app``, which also runs in the reloader's parent, in gunicorn's
        master and for every ``flask`` command.
        """
        self._of(app).start()

    def close(self, app: Flask, timeout: float | None = None) -> None:
        """
        Close the client of *app* in this process, if it has one.

        It blocks until the client has closed. Calling it again has no effect.

        Args:
            app: The app.
            timeout: Seconds for all of it. ``None`` means ``CLOSE_TIMEOUT``.

        """
        self._of(app).close(timeout)

    def deliver(self, app: Flask, data: Any, robust: bool = False, *, key: Any = None) -> None:
        """
        Pass a message to the handlers in this thread, without a network.

        Use it in tests. It returns when the handlers have finished.

        Args:
            app: The app.
            data: A str or bytes as received. Any other object is encoded first.
            robust: ``True`` reports a handler's exception, as in production. ``False`` raises it.
            key: The key of a fleet's stream. ``None`` without a fleet.

        Raises:
            TypeError: If a fleet's message has no key, or another message has one.

        """
        client = self._of(app).client
        check_key(self.name, key, is_fleet=isinstance(client, Fleet))
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
