"""The errors of the management commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import DatabaseError, InterfaceError

__all__ = ["explained"]


@contextmanager
def explained(fact: str) -> Iterator[None]:
    """
    Turn errors of the settings and of the database into a CommandError.

    Args:
        fact: The beginning of the text for an error of the database.

    """
    try:
        yield
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    except (DatabaseError, InterfaceError) as error:
        raise CommandError(
            f"{fact} ({type(error).__name__}). Run `manage.py migrate` if the table is missing."
        ) from error
