"""
Django in the test's own process, for what needs no server and no second process.

Import it before anything that needs settings. pytest-django gives the database: ``db``.
"""

from __future__ import annotations

import django
from django.conf import settings

from benchmarks.adminsite import ADMIN

__all__: list[str] = []

if not settings.configured:
    settings.configure(
        **ADMIN,
        SECRET_KEY="for tests only",
        ROOT_URLCONF="kit.djangourls",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    )
    django.setup()
