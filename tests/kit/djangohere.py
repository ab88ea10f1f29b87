"""
Django in the process of the test, for tests without a server.

Import it before modules that need settings. The fixture ``db`` of pytest-django is the database.
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
