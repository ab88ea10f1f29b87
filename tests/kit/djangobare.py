"""Django with nothing but our tables, in a process of its own."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["configure", "migrate"]


def configure(database: str) -> None:
    """Set Django up; *database* is a PostgreSQL URL, or the path of a SQLite file."""
    import django
    from django.conf import settings

    if database.startswith("postgres"):
        url = urlsplit(database)
        found = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path.strip("/"),
            "USER": url.username,
            "PASSWORD": url.password,
            "HOST": url.hostname,
            "PORT": url.port,
        }
    else:
        found = {"ENGINE": "django.db.backends.sqlite3", "NAME": database}
    settings.configure(
        DATABASES={"default": found}, INSTALLED_APPS=["datastream_ws_django"], USE_TZ=True
    )
    django.setup()


def migrate(database: str) -> None:
    """Make the tables; for a process of its own."""
    from django.core.management import call_command

    configure(database)
    call_command("migrate", verbosity=0)
