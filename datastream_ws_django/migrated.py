"""Find databases that lack migrations of this app, because ``manage.py migrate`` was not run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, DatabaseError, InterfaceError, connections, router
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from .db import close_all

__all__ = ["Unapplied", "log_unapplied", "unapplied", "warn"]

log = logging.getLogger("datastream_ws")

LABEL = "datastream"


class Unapplied(NamedTuple):
    """The migrations that a database lacks."""

    alias: str
    names: list[str]

    @property
    def fact(self) -> str:
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return (
            f"the database {self.alias!r} lacks migrations of datastream_ws_django "
            f"({self.names[0]}{more})"
        )

    @property
    def command(self) -> str:
        option = "" if self.alias == DEFAULT_DB_ALIAS else f" --database={self.alias}"
        return f"manage.py migrate{option}"


def unapplied() -> Iterator[Unapplied]:
    """Yield the databases of the app's tables that lack migrations. Raises DatabaseError."""
    folder, _ = MigrationLoader.migrations_module(LABEL)
    if folder is None:  # a test run without migrations
        return
    names = {module.name for module in iter_modules(import_module(folder).__path__)}
    models = apps.get_app_config(LABEL).get_models()
    for alias in sorted({router.db_for_write(model) for model in models}):
        applied = MigrationRecorder(connections[alias]).applied_migrations()
        missing = sorted(name for name in names if (LABEL, name) not in applied)
        if missing:
            yield Unapplied(alias, missing)


def log_unapplied() -> bool:
    """Log a warning for each such database. Return whether there is one."""
    found = list(unapplied())
    for each in found:
        log.warning("%s; run `%s`", each.fact, each.command)
    return bool(found)


def warn() -> None:
    """Log missing migrations. This runs on a thread of its own, because the database may hang."""
    try:
        log_unapplied()
    except (DatabaseError, InterfaceError) as error:
        log.info("the migrations cannot be checked (%s)", type(error).__name__)
    finally:
        close_all()
