"""Django with only the tables of ``datastream_ws_django``, in its own process."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

__all__ = ["configure", "database_of", "migrate"]


def database_of(where: str) -> dict[str, Any]:
    """Return the entry of DATABASES for a URL of PostgreSQL or MariaDB, or for a SQLite file."""
    if "://" not in where:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": where}
    url = urlsplit(where)
    return {
        "ENGINE": f"django.db.backends.{'mysql' if url.scheme == 'mysql' else 'postgresql'}",
        "NAME": url.path.strip("/"),
        "USER": url.username,
        "PASSWORD": url.password or "",
        "HOST": url.hostname,
        "PORT": url.port,
    }


def configure(database: str) -> None:
    """Set up Django with a database, in the notation of :func:`database_of`."""
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={"default": database_of(database)},
        INSTALLED_APPS=["datastream_ws_django"],
        USE_TZ=True,
    )
    django.setup()


def migrate(database: str) -> None:
    """Create the tables. Call it in a separate process."""
    from django.core.management import call_command

    configure(database)
    call_command("migrate", verbosity=0)
