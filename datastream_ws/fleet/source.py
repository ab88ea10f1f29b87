"""What the source of a fleet says, and what has changed since it was last asked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import ConfigurationError
from ..option_checks import nearest
from ..options import ClientOptions
from ..redaction import hides_arguments, peer_text

__all__ = ["Changes", "Row", "Rows", "compare", "options_of"]

# A stream's name is the fleet's and its key; handlers, lease and log are the fleet's as a whole.
NOT_IN_ROWS = ("handlers", "lease", "lease_ttl", "logger", "name")


class Row:
    """
    One stream of the source: its key and its options as they were given.

    Opaque, because the options hold secrets. Mappings and lists are copied, so that the caller can
    change its own.
    """

    __slots__ = ("_given", "key")

    def __init__(self, key: Any, given: Mapping[str, Any]) -> None:
        self.key = key
        self._given = {name: _copied(value) for name, value in given.items()}

    def says(self, given: Mapping[str, Any]) -> bool:
        """Whether *given* is what this row has."""
        own = self._given
        return own == given or (
            own.keys() == given.keys() and all(_is_same(own[name], given[name]) for name in own)
        )

    def options(self, defaults: ClientOptions, name: str) -> ClientOptions:
        """Return *defaults* with the row's options; raises ConfigurationError."""
        for option in self._given:
            if option in NOT_IN_ROWS:
                raise ConfigurationError(f"{option}: is an option of the fleet, not of a stream")
            if option not in ClientOptions.names():
                hint = nearest(option, ClientOptions.names())
                raise ConfigurationError(f"{peer_text(option)}: is not an option{hint}")
        if "url" not in self._given:
            raise ConfigurationError("url: is required")
        return defaults.replace(name=name, **self._given)

    def __repr__(self) -> str:
        return f"<Row {peer_text(self.key)}>"


Rows = dict[str, Row]
"""The rows by the text of their keys, which is what stores and names have."""


@dataclass(frozen=True, slots=True)
class Changes:
    """
    What is to be done, as texts of keys.

    Attributes:
        errors: What could not be used, by key; such a stream stays as it was.

    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    errors: Mapping[str, ConfigurationError] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.gone)


@hides_arguments
def compare(
    before: Rows, given: Any, check: Callable[[Row], object] = lambda row: None
) -> tuple[Rows, Changes]:
    """
    Return the rows that *given* makes of *before*, and what has changed.

    Args:
        given: Key → mapping of options, as the source returned it.
        check: Called with each new row; one for which it raises ConfigurationError is left out,
            or stays as it was.

    Raises:
        ConfigurationError: If it is no such mapping at all, or two keys have the same text.

    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"source: must return a mapping, not {type(given).__name__}")
    rows: Rows = {}
    added: list[str] = []
    changed: list[str] = []
    errors: dict[str, ConfigurationError] = {}
    for key, options in given.items():
        name = str(key)
        if name in rows or name in errors:
            raise ConfigurationError(f"source: two keys have the text {peer_text(name)!r}")
        old = before.get(name)
        try:
            if old is not None and isinstance(options, Mapping) and old.says(options):
                rows[name] = old
                continue
            rows[name] = _checked(key, options, check)
            (added if old is None else changed).append(name)
        except ConfigurationError as error:
            errors[name] = error
            if old is not None:
                rows[name] = old
    gone = tuple(name for name in before if name not in rows)
    return rows, Changes(tuple(added), tuple(changed), gone, errors)


@hides_arguments
def _checked(key: Any, options: Any, check: Callable[[Row], object]) -> Row:
    if not str(key) or not str(key).isprintable():
        raise ConfigurationError("source: a key must be printable and not empty")
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"must be a mapping of options, not {type(options).__name__}")
    row = Row(key, options)
    check(row)
    return row


def options_of(row: Row, defaults: ClientOptions, fleet: str) -> ClientOptions:
    """Return the options of a stream's client; raises ConfigurationError."""
    return row.options(defaults, f"{fleet}/{row.key}")


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _is_same(one: Any, other: Any) -> bool:
    """Whether two options are alike; partials of the same function and arguments are."""
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)
