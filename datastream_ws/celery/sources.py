"""The streams that ``install()`` has added to an app, and their clients in a worker."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .. import AsyncClient, Client, ConfigurationError, Fleet
from ..embedding import check_stream, client_of, name_of

__all__ = ["Installation", "Source", "Stream", "installations"]


@dataclass(frozen=True, slots=True)
class Stream:
    """
    A stream of a worker.

    Attributes:
        name: The name of the stream.
        source: The object that was passed to ``forward()``, a client or an adapter's stream.
        client: The client or fleet in this process.

    """

    name: str
    source: Any
    client: Client | Fleet


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """
    The arguments of one call of ``install()``.

    Attributes:
        given: A client or stream. ``None`` means all streams in ``DATASTREAMS``.
        flask_app: The app of a Flask stream, or a callable that returns it. ``None`` for any other
            stream.

    """

    given: Any
    flask_app: Any = None

    @property
    def name(self) -> str | None:
        return None if self.given is None else name_of(self.given)

    def streams(self) -> list[Stream]:
        """Return the streams. Raises ConfigurationError, and what invalid settings raise."""
        if self.given is None:
            return [_stream(found) for found in django_streams()]
        if self.flask_app is None:
            return [_stream(self.given)] if _is_enabled(self.given) else []
        return flask_streams(self.given, self.flask_app)


def _stream(given: Any) -> Stream:
    return Stream(name_of(given), given, client_of(given))


def _is_enabled(given: Any) -> bool:
    settings = None if isinstance(given, Client) else getattr(given, "settings", None)
    return bool(getattr(settings, "enabled", True))


def django_streams() -> Iterable[Any]:
    """Return the enabled streams of ``DATASTREAMS``."""
    if "DJANGO_SETTINGS_MODULE" not in os.environ:
        raise ConfigurationError(
            "install(app): no client is given, and DJANGO_SETTINGS_MODULE is not set. Pass a "
            "client, install(app, client), or set DJANGO_SETTINGS_MODULE to use DATASTREAMS."
        )
    from datastream_ws_django import datastreams

    return [stream for stream in datastreams.values() if _is_enabled(stream)]


def flask_streams(given: Any, flask_app: Any) -> list[Stream]:
    """Return the stream of a Flask app in a list. The list is empty if it's disabled."""
    from datastream_ws_flask.streams import streams_of

    app = flask_app if hasattr(flask_app, "app_context") else flask_app()
    found = streams_of(app).get(given.name)
    if found is not None and not found.is_enabled:
        return []
    return [Stream(given.name, given, client_of(given, app))]


class Installation:
    """The streams that were added to one app. They are resolved when a worker starts."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, given: Any, flask_app: Any = None) -> None:
        """
        Add a client or stream. The same one again has no effect.

        Raises:
            ConfigurationError: If *given* is something else, or another stream has its name.

        """
        _check(given, flask_app)
        source = Source(given, flask_app)
        for other in self._sources:
            if other.given is given:
                return
            if source.name is not None and other.name == source.name:
                raise _two_of(source.name)
        self._sources.append(source)

    def streams(self, names: Iterable[str] | None = None) -> list[Stream]:
        """
        Return the streams with these names, or all streams if *names* is ``None``.

        Raises:
            ConfigurationError: If a name is unknown or not unique, or there is no stream.

        """
        streams: dict[str, Stream] = {}
        for source in self._sources:
            for stream in source.streams():
                if stream.name in streams and streams[stream.name].client is not stream.client:
                    raise _two_of(stream.name)
                streams.setdefault(stream.name, stream)
        wanted = list(streams) if names is None else list(dict.fromkeys(names))
        known = ", ".join(streams) or "none"
        for name in wanted:
            if name not in streams:
                raise ConfigurationError(
                    f"--datastream-streams: unknown stream {name!r}. Use one of: {known}"
                )
        if not wanted:
            raise ConfigurationError(
                "--datastream: no stream is installed and enabled. Call install(app, client)."
            )
        return [streams[name] for name in wanted]


installations: weakref.WeakKeyDictionary[Any, Installation] = weakref.WeakKeyDictionary()
"""The installation of each Celery app."""


def _check(given: Any, flask_app: Any) -> None:
    if isinstance(given, AsyncClient):
        raise ConfigurationError("install: must be a Client, not an AsyncClient")
    if given is not None:
        check_stream(given, flask_app, "install")
    elif flask_app is not None:
        raise ConfigurationError(
            "install: flask_app is only for a stream. Use install(app, datastream, flask_app=…)."
        )


def _two_of(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"install: two streams have the name {name!r}. Set another name, Client(…, name=…)."
    )
