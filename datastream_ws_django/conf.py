"""
The setting ``DATASTREAMS``: the keys of each stream's dict, and the options built from it.

The setting is read on first use, and again after ``override_settings``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from datastream_ws import ClientOptions, ConfigurationError, Handlers
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

from .db import NAME_LENGTH, is_passing, with_clean_connections

if TYPE_CHECKING:
    from datastream_ws import Fleet

__all__ = [
    "DATABASE_LEASE",
    "SETTING",
    "StreamSettings",
    "StreamsSettings",
    "streams_settings",
]

SETTING = "DATASTREAMS"
DATABASE_LEASE = "database"


@dataclass(frozen=True, repr=False)
class StreamSettings:
    """
    The settings of one stream. All but *alias* and *options* exist only in Django.

    Attributes:
        options: Options of ``ClientOptions``, in upper case and as written in the settings.
        enabled: Whether commands and AUTOSTART start the stream.
        autostart: Whether each process that serves requests runs the stream in the background.
        atomic: Alias of the database whose ``transaction.atomic()`` wraps synchronous handlers.
        dead_letter_days: Days for which failed messages are kept as rows. 0 keeps none.
        dead_letter_rows: Maximum number of rows that are kept. ``None`` means no limit.
        dead_letter_bytes: Maximum number of bytes that are kept in rows. ``None`` means no limit.
        source: A function that returns the rows of a fleet, or its dotted path. ``None`` means
            that this is a single stream.
        healthy_share: Share of a fleet's streams that must be healthy, above 0 and at most 1.
        refresh, start_rate, limit: Arguments of :class:`datastream_ws.Fleet`. ``None`` means its
            default.

    """

    alias: str
    options: Mapping[str, Any] = field(default_factory=dict)
    enabled: bool = True
    autostart: bool = False
    atomic: str | None = None
    dead_letter_days: float = 30
    dead_letter_rows: int | None = 10_000
    dead_letter_bytes: int | None = 100 * 2**20
    source: Any = None
    healthy_share: float = HEALTHY_SHARE
    refresh: float | None = None
    start_rate: Any = None
    limit: int | None = None

    @classmethod
    @hides_arguments
    def read(cls, alias: str, mapping: Any) -> StreamSettings:
        """Read a stream's dict. Raises ImproperlyConfigured."""
        if not isinstance(mapping, Mapping):
            raise _wrong(alias, f"must be a dict, not {type(mapping).__name__}")
        _refuse_unknown(alias, mapping)
        if wrong := check_settings(mapping):
            raise _wrong(alias, ": ".join(wrong))
        own = {key.lower(): mapping[key] for key in OWN if key in mapping}
        return cls(alias, {key: mapping[key] for key in mapping if key not in OWN}, **own)

    def __post_init__(self) -> None:
        if self.atomic is not None and self.atomic not in settings.DATABASES:
            known = ", ".join(map(repr, settings.DATABASES)) or "none"
            raise self.wrong(f"ATOMIC: must be an alias of DATABASES ({known}), or None")
        days = self.dead_letter_days
        if type(days) not in (int, float) or not 0 <= days < 1e6:
            raise self.wrong("DEAD_LETTER_DAYS: must be a number of days, 0 or more")
        for name in ("dead_letter_rows", "dead_letter_bytes"):
            most = getattr(self, name)
            if most is not None and (type(most) is not int or most < 0):
                raise self.wrong(f"{name.upper()}: must be a whole number, 0 or more, or None")
        if "\0" in self.alias or len(self.alias) > NAME_LENGTH:
            raise self.wrong(
                f"a stream's name must have at most {NAME_LENGTH} characters, and no NUL"
            )

    def __repr__(self) -> str:
        return f"<StreamSettings {vars(self).get('alias')!r}>"

    def wrong(self, text: str) -> ImproperlyConfigured:
        """Return the error that names this stream's setting."""
        return _wrong(self.alias, text)

    @property
    def is_fleet(self) -> bool:
        """Whether these are the settings of a fleet, with a stream for each row of ``SOURCE``."""
        return self.source is not None

    @property
    def url(self) -> Any:
        """The URL as written in the settings, or ``None``."""
        return self.options.get("URL") or None

    def resolved(self) -> dict[str, Any]:
        """Return the options with dotted paths imported. Raises ImproperlyConfigured."""
        return {key: self._resolve(key, value) for key, value in self.options.items()}

    def _resolve(self, key: str, value: Any) -> Any:
        try:
            return resolved(key, value)
        except ImportError as error:
            raise self.wrong(f"{key}: {error}") from error

    @hides_arguments
    def client_options(
        self, handlers: Handlers | None = None, *, foreground: bool = False, lease: bool = True
    ) -> ClientOptions:
        """
        Return the options of the stream's client.

        Args:
            foreground: Whether a fatal error stops the client, so that a supervisor restarts the
                command.
            lease: Whether to use the lease of the settings.

        Raises:
            ImproperlyConfigured: If an option is missing or invalid. The text names it.

        """
        if self.url is None:
            raise self.wrong(
                'URL: is missing. Add "URL": "wss://…", or the dotted path of a callable that '
                'returns one, or disable the stream with "ENABLED": False.'
            )
        with self._naming_settings():
            return embedded_options(
                self._given(lease=lease),
                foreground=foreground,
                name=self.alias,
                handlers=handlers,
                retry_message=is_passing,
            )

    def offline_options(self, *, lease: bool = False) -> ClientOptions:
        """Return the options of a client that never connects, so that they need no URL."""
        options = {**self.options, "URL": self.url or "wss://localhost"}
        return replace(self, options=options, source=None).client_options(lease=lease)

    @hides_arguments
    def fleet(self, handlers: Handlers, *, lease: bool = True) -> Fleet:
        """
        Return the fleet without starting it.

        Args:
            handlers: The handlers that all its streams share.
            lease: Whether to use the lease of the settings.

        Raises:
            ImproperlyConfigured: If an option is missing or invalid. The text names it.

        """
        source = self._resolve("SOURCE", self.source)
        if not callable(source):
            raise self.wrong(f"SOURCE: {NO_SOURCE}")
        own = {name.lower(): getattr(self, name.lower()) for name in FLEET_ARGUMENTS}
        with self._naming_settings():
            return embedded_fleet(
                with_clean_connections(source),
                self._given(lease=lease),
                {name: value for name, value in own.items() if value is not None},
                name=self.alias,
                handlers=handlers,
                retry_message=is_passing,
            )

    def _given(self, *, lease: bool) -> dict[str, Any]:
        """Return the options for a client or a fleet, with the lease built."""
        options = self.resolved()
        given = options.get("LEASE")
        if isinstance(given, str) and given != DATABASE_LEASE and "://" not in given:
            raise self.wrong('LEASE: must be "database", a redis:// URL, or a lease\'s dotted path')
        if not lease:
            options.pop("LEASE", None)
        elif options.get("LEASE") == DATABASE_LEASE:
            from .lease import DatabaseLease  # models can only be imported once apps are loaded

            options["LEASE"] = DatabaseLease(self.alias)
        return {key: value for key, value in options.items() if key not in REGISTERED}

    @contextmanager
    def _naming_settings(self) -> Iterator[None]:
        """Turn a ConfigurationError into an error that names the stream and the setting."""
        try:
            yield
        except ConfigurationError as error:
            raise self.wrong(_upper_case(str(error))) from error


OWN = [each.name.upper() for each in fields(StreamSettings)[2:]]  # without alias and options
# The stream registers these handlers once. Otherwise each new client would register them again.
REGISTERED = ("MESSAGE_HANDLER", "CONNECTION_READY_HANDLER")
NOT_OURS = ("NAME", "HANDLERS")


def _refuse_unknown(alias: str, mapping: Mapping[Any, Any]) -> None:
    names = [name.upper() for name in ClientOptions.names()]
    known = [name for name in names if name not in NOT_OURS] + OWN
    for key in mapping:
        if key in known:
            continue
        if key == "NAME":
            raise _wrong(alias, "NAME: must not be set, because the key in DATASTREAMS is the name")
        if key == "HANDLERS":
            raise _wrong(
                alias, "HANDLERS: must not be set. Register handlers on datastreams[alias] instead."
            )
        nearest = difflib.get_close_matches(str(key).upper(), known, n=1)
        hint = f". Did you mean {nearest[0]!r}?" if nearest else ""
        raise _wrong(alias, f"{key!r}: unknown setting{hint}")


def _wrong(alias: str, text: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{SETTING}[{alias!r}]: {text}")


def _upper_case(text: str) -> str:
    """Spell the option at the start of an error as the settings do."""
    name, colon, rest = text.partition(":")
    known = name in ClientOptions.names() or name.upper() in OWN
    return name.upper() + colon + rest if known else text


class StreamsSettings(Mapping[str, StreamSettings]):
    """
    ``DATASTREAMS`` by alias, read on first use and again after ``reset()``.

    Any access can raise ImproperlyConfigured.
    """

    def __init__(self) -> None:
        self._read: dict[str, StreamSettings] = {}
        self._on_reset: list[Callable[[], None]] = []

    @property
    def raw(self) -> Mapping[str, Any]:
        """The setting as written. A project without it has no streams."""
        given = getattr(settings, SETTING, {})
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise ImproperlyConfigured(
                f'{SETTING}: must be a dict of dicts, for example {{"default": {{"URL": "wss://…"}}}}'
            )
        return cast("Mapping[str, Any]", given)

    def __getitem__(self, alias: str) -> StreamSettings:
        if alias not in self._read:
            if alias not in self.raw:
                known = ", ".join(map(repr, self.raw)) or "none"
                raise ImproperlyConfigured(
                    f"{SETTING} has no stream {alias!r}. Add it, or use one of these: {known}"
                )
            self._read[alias] = StreamSettings.read(alias, self.raw[alias])
        return self._read[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __contains__(self, alias: object) -> bool:
        return alias in self.raw

    def on_reset(self, function: Callable[[], None]) -> None:
        """Call *function* each time the setting has changed."""
        self._on_reset.append(function)

    def reset(self, *, setting: str = SETTING, **kwargs: Any) -> None:
        """Discard the settings that were read. This is a receiver of ``setting_changed``."""
        if setting == SETTING:
            self._read = {}
            for function in self._on_reset:
                function()


streams_settings = StreamsSettings()
