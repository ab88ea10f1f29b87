"""
Django in the test's own process, for what needs no server and no second process.

Import it before anything that needs settings. pytest-django gives the database: ``db``.
"""

from __future__ import annotations

import os

import django
from django.conf import settings

from benchmarks.adminsite import ADMIN
from kit.djangobare import database_of

__all__ = ["DATABASE"]

DATABASE = "TEST_DJANGO_DATABASE"  # a variable with the URL of another database for these tests

if not settings.configured:
    settings.configure(
        **ADMIN,
        SECRET_KEY="for tests only",
        ROOT_URLCONF="kit.djangourls",
        DATABASES={"default": database_of(os.environ.get(DATABASE, ":memory:"))},
    )
    django.setup()
