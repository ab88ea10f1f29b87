"""Validate what a fleet's source returns, and compare it with the previous result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import ConfigurationError
from ..option_checks import nearest
from ..options import ClientOptions
from ..redaction import hides_arguments, peer_text

__all__ = ["Changes", "Row", "Rows", "compare"]

# A stream's name consists of the fleet's name and the key. The others apply to the whole fleet.
NOT_IN_ROWS = ("handlers", "lease", "lease_ttl", "logger", "name")


class Row:
    """
    One stream of the source, with its key and its options.

    It never shows the options, because they contain secrets. Mappings and lists are copied, so that
    the source may modify its own.
    """

    __slots__ = ("_given", "key")

    def __init__(self, key: Any, given: Mapping[str, Any]) -> None:
        self.key = key
        self._given = {name: _copied(value) for name, value in given.items()}

    def matches(self, given: Mapping[str, Any]) -> bool:
        """Return whether the row was made from equal options."""
        own = self._given
        return own == given or (
            own.keys() == given.keys() and all(_is_same(own[name], given[name]) for name in own)
        )

    def options(self, defaults: ClientOptions, fleet: str) -> ClientOptions:
        """
        Return *defaults* updated with the row's options, for a stream of this *fleet*.

        Raises:
            ConfigurationError: If an option is unknown, misplaced or invalid, or ``url`` is
                missing.

        """
        for option in self._given:
            if option in NOT_IN_ROWS:
                raise ConfigurationError(
                    f"{option}: is an option of the fleet, not of a stream. Set it for the fleet."
                )
            if option not in ClientOptions.names():
                hint = nearest(option, ClientOptions.names())
                raise ConfigurationError(f"{peer_text(option)}: is not an option{hint}")
        if "url" not in self._given:
            raise ConfigurationError("url: is required")
        return defaults.replace(name=f"{fleet}/{self.key}", **self._given)

    def __repr__(self) -> str:
        return f"<Row {peer_text(self.key)}>"


Rows = dict[str, Row]
"""Rows by the text of their keys, because stores and names contain texts."""


@dataclass(frozen=True, slots=True)
class Changes:
    """
    The differences between two results of the source, as texts of keys.

    Attributes:
        errors: Invalid rows by key. Such a stream keeps its previous options.

    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    errors: Mapping[str, ConfigurationError] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.gone)


@hides_arguments
def compare(before: Rows, given: Any, check: Callable[[Row], object]) -> tuple[Rows, Changes]:
    """
    Return the rows that *given* contains, and how they differ from *before*.

    Args:
        given: The result of the source, a mapping of keys to mappings of options.
        check: Called with each new row. If it raises ConfigurationError, the row is left out, or
            keeps its previous options.

    Raises:
        ConfigurationError: If *given* is not a mapping, or two keys have the same text.

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
            if old is not None and isinstance(options, Mapping) and old.matches(options):
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


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two options are equal. Partials of the same function and arguments are."""
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return bool(one == other)
