"""The settings of a stream in ``app.config``, as options of its client."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from flask import Flask

from datastream_ws import ClientOptions, ConfigurationError, Fleet, Handlers
from datastream_ws.embedding import (
    FLEET_ARGUMENTS,
    HEALTHY_SHARE,
    NO_SOURCE,
    check_settings,
    embedded_fleet,
    embedded_options,
    hides_arguments,
    resolved,
)

__all__ = ["HEALTH_FILE", "NAMED", "Settings"]

PREFIX = "DATASTREAM_"
NAMED = "DATASTREAMS"
HEALTH_FILE = "DATASTREAM_HEALTH_FILE"  # a setting of the process, not of a stream


class Settings:
    """
    The settings of a stream in an app.

    Args:
        app: The app. Its config has ``DATASTREAM_<OPTION>`` for the default stream, and
            ``DATASTREAMS[name]`` for any other.
        name: The name of the stream.

    Attributes:
        is_enabled: The setting ``ENABLED``.
        is_autostarted: The setting ``AUTOSTART``.
        context_per: ``"call"`` or ``"run"``, which is how long an application context lasts.
        healthy_share: The share of a fleet's streams that must be healthy.

    Raises:
        ConfigurationError: If a setting is invalid. The text names its key.

    """

    @hides_arguments
    def __init__(self, app: Flask, name: str) -> None:
        self._app = app
        self._name = name
        self._is_flat = False
        self._mapping = self._found()
        if wrong := check_settings(self._mapping):
            raise self._wrong(*wrong)
        take = self._mapping.pop
        self.is_enabled: bool = take("ENABLED", True)
        self.is_autostarted: bool = take("AUTOSTART", False)
        self.context_per: Literal["call", "run"] = self._take_context()
        self._source = take("SOURCE", None)
        self.healthy_share: float = take("HEALTHY_SHARE", HEALTHY_SHARE)
        self._fleet = {key.lower(): take(key) for key in FLEET_ARGUMENTS if key in self._mapping}

    @property
    def is_fleet(self) -> bool:
        """Whether the stream is a fleet, with one stream for each row of ``SOURCE``."""
        return self._source is not None

    @hides_arguments
    def options(self, handlers: Handlers) -> ClientOptions:
        """Return the options of a client in a process that serves requests."""
        if "URL" not in self._mapping:
            raise ConfigurationError(
                f"stream {self._name} has no URL. Set {self._key('URL')} = 'wss://…'."
            )
        given = self._given()
        with self._naming_keys():
            return embedded_options(
                given,
                name=self._name,
                handlers=handlers,
                retry_message=lost_database_connection,
            )

    @hides_arguments
    def fleet(self, handlers: Handlers, kind: type[Fleet]) -> Fleet:
        """Return a new fleet, without starting it."""
        source = self._resolved("SOURCE", self._source)
        if not callable(source):
            raise self._wrong("SOURCE", NO_SOURCE)
        given = self._given()
        with self._naming_keys():
            return embedded_fleet(
                within(self._app, source),
                given,
                self._fleet,
                kind,
                name=self._name,
                handlers=handlers,
                retry_message=lost_database_connection,
            )

    def _given(self) -> dict[str, Any]:
        return {key: self._resolved(key, value) for key, value in self._mapping.items()}

    @contextmanager
    def _naming_keys(self) -> Iterator[None]:
        """Replace the option in a ConfigurationError by its key in the config."""
        try:
            yield
        except ConfigurationError as error:
            option, _, wrong = str(error).partition(": ")
            # The name of a key in lower case is in quotes.
            key = option.upper() if option.isidentifier() else option.strip("'")
            raise self._wrong(key, wrong) from None

    def _found(self) -> dict[str, Any]:
        found = self._named()
        if self._name == "default":
            flat = self._flat()
            if flat and found:
                raise ConfigurationError(
                    f"the default stream is set twice. Use {PREFIX}… or {NAMED}['default']."
                )
            self._is_flat = not found
            found = flat or found
        for key in {"NAME", "HANDLERS"} & found.keys():
            raise self._wrong(key, "is set by DataStream(name=…)")
        return found

    def _flat(self) -> dict[str, Any]:
        keys = [key for key in self._app.config if key.startswith(PREFIX) and key != HEALTH_FILE]
        return {key.removeprefix(PREFIX): self._app.config[key] for key in keys}

    def _named(self) -> dict[str, Any]:
        streams = self._app.config.get(NAMED, {})
        found = streams.get(self._name, {}) if isinstance(streams, Mapping) else None
        if not isinstance(found, Mapping):
            raise ConfigurationError(f"{NAMED}: must be a dict of dicts, {{name: {{'URL': …}}}}")
        return dict(found)

    def _key(self, option: str) -> str:
        """Return the key of an option as Python code."""
        if self._is_flat:
            return f"app.config['{PREFIX}{option}']"
        return f"app.config['{NAMED}']['{self._name}']['{option}']"

    def _wrong(self, option: str, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self._key(option)}: {text}")

    def _take_context(self) -> Literal["call", "run"]:
        value = self._mapping.pop("CONTEXT", "message")
        if value not in ("message", "run"):
            given = repr(value[:40]) if isinstance(value, str) else type(value).__name__
            raise self._wrong("CONTEXT", f"must be 'message' or 'run' (given: {given})")
        return "run" if value == "run" else "call"

    def _resolved(self, key: str, value: Any) -> Any:
        try:
            found = resolved(key, value)
        except ImportError as error:
            raise self._wrong(key, str(error)) from error
        return within(self._app, found) if key in ("URL", "HEADERS") and callable(found) else found


def within(app: Flask, function: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that calls *function*, and awaits its result, in application contexts."""

    async def awaited(result: Awaitable[Any]) -> Any:
        with app.app_context():
            return await result

    @functools.wraps(function)
    def called() -> Any:
        with app.app_context():
            result = function()
        return awaited(result) if isinstance(result, Awaitable) else result

    return called


def lost_database_connection(error: BaseException) -> bool:
    """Return whether *error* or one of its causes is SQLAlchemy's error of a lost connection."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if getattr(found, "connection_invalidated", False) is True:
            return True
        seen.add(id(found))
        found = found.__cause__ or found.__context__
    return False
