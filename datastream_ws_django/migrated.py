"""Reports that migrations of this app are not applied, because ``manage.py migrate`` is missing."""

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

__all__ = ["Unapplied", "unapplied", "warn"]

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


def warn() -> None:
    """Log missing migrations, on a thread of its own. An unavailable database is no reason."""
    try:
        for each in unapplied():
            log.warning("%s; run `%s`", each.fact, each.command)
    except (DatabaseError, InterfaceError) as error:
        log.info("the migrations cannot be checked (%s)", type(error).__name__)
    finally:
        close_all()
