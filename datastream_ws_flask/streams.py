"""A stream in an app, with its settings and its client in this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context
from typing import Any, NamedTuple, TypeVar, cast

from flask import Flask, request

from datastream_ws import Client, Fleet, Handlers
from datastream_ws.embedding import about, fields, prepare

from .settings import Settings
from .signals import Announcer

__all__ = ["EXTENSION", "AppStream", "streams_of"]

T = TypeVar("T")

EXTENSION = "datastream"  # the key in app.extensions


def streams_of(app: Flask) -> dict[str, AppStream]:
    """Return the streams of *app* by name, in the order of their ``init_app``."""
    found: dict[str, AppStream] = app.extensions.setdefault(EXTENSION, {})
    return found


class AppClient(Client):
    """A client that doesn't keep the context of the request that starts it."""

    def start(self) -> None:
        # Coroutine handlers run in the context of start(), and would see this request forever.
        Context().run(super().start)


class AppFleet(Fleet):
    """A fleet that doesn't keep the context of the request that starts it."""

    def start(self) -> None:
        Context().run(super().start)


class Built(NamedTuple):
    """The objects that are created on first use."""

    client: AppClient | AppFleet
    announcer: Announcer


class AppStream:
    """
    A stream in an app, stored in ``app.extensions["datastream"]``.

    The client is created on first use, because the config may be set after ``init_app``. After a
    fork it's idle, and you can start it in the child.

    Args:
        app: The app.
        stream: The extension object.
        name: The name of the stream.
        shared: The handlers of the extension object. Each app uses them in its own registry, with
            its own contexts.

    """

    def __init__(self, app: Flask, stream: object, name: str, shared: Handlers) -> None:
        self.app = app
        self.name = name
        self._stream = stream
        self._shared = shared
        self._made_once: dict[str, Any] = {}
        self._asked_in = 0  # the id of the process that has handled a request

    @property
    def is_enabled(self) -> bool:
        return self.settings.is_enabled

    @property
    def is_autostarted(self) -> bool:
        """Whether the client runs in every process that serves requests, not in a runner."""
        return self.settings.is_autostarted

    @property
    def client(self) -> Client | Fleet:
        """
        The client, or the fleet, of this process.

        Raises:
            ConfigurationError: If the config is invalid.

        """
        return self._made("built", self._build).client

    def start(self) -> None:
        """Start the client unless the stream is disabled. Calling it again has no effect."""
        if self.is_enabled:
            self.client.start()
        else:
            text = "stream %s: not started, because it is disabled"
            self.app.logger.info(text, self.name, extra=fields(self.name))

    def close(self, timeout: float | None) -> None:
        """Close the client, if this process has one."""
        built: Built | None = self._made_once.get("built")
        if built is not None:
            built.client.close(timeout)

    def foreground_client(self, *, lease: bool = True) -> Client | Fleet:
        """Return the client with the defaults of a runner, where it fails after a fatal error."""
        client = self.client
        prepare(client, foreground=True, lease=lease)
        return client

    def autostart(self) -> None:
        """Start with the first request of this process. It's a ``before_request`` hook."""
        if self._asked_in == os.getpid() or comes_from_test_client(self.app):
            return
        self._asked_in = os.getpid()
        try:
            if self.is_autostarted:
                self.start()
        except Exception as error:  # the app continues without the stream
            extra = fields(self.name, **about(error))
            self.app.logger.error("stream %s: not started: %s", self.name, error, extra=extra)

    @property
    def settings(self) -> Settings:
        return self._made("settings", lambda: Settings(self.app, self.name))

    def _made(self, key: str, make: Callable[[], T]) -> T:
        # There is no lock, because a fork could leave it locked. Two threads may both create one,
        # and setdefault() keeps the first.
        if key not in self._made_once:
            self._made_once.setdefault(key, make())
        made: T = self._made_once[key]
        return made

    def _build(self) -> Built:
        handlers = Handlers()
        client = self._client(handlers)
        handlers.use(self.app.app_context, per=self.settings.context_per)
        handlers.follow(self._shared)
        wants_retry = client.options.retry_message or never
        has_own = self.settings.context_per == "call"
        return Built(client, Announcer(self.app, self._stream, handlers, wants_retry, has_own))

    def _client(self, handlers: Handlers) -> AppClient | AppFleet:
        if self.settings.is_fleet:
            return cast("AppFleet", self.settings.fleet(handlers, AppFleet))
        return AppClient(self.settings.options(handlers))

    def __repr__(self) -> str:
        return f"<AppStream {self.name} of {self.app.name}>"


def never(_: Any) -> bool:
    return False


def comes_from_test_client(app: Flask) -> bool:
    """Return whether the current request comes from a test client and not from a server."""
    environ = request.environ
    made_up = environ.get("HTTP_USER_AGENT", "").startswith("Werkzeug/")
    return app.testing or (made_up and "SERVER_SOFTWARE" not in environ)
