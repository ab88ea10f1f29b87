"""What Celery's command line prints of a wrong configuration: one line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from .. import ConfigurationError

__all__ = ["refuse_in_import", "refusing"]

log = logging.getLogger("datastream_ws.celery")

OURS = str(Path(__file__).parents[1])


class Refusal(ConfigurationError, click.ClickException):
    """A wrong configuration, of which Celery's command line prints the one line."""

    def __init__(self, text: str) -> None:
        click.ClickException.__init__(self, text)


@contextmanager
def refusing() -> Iterator[None]:
    """Have what is wrong end the command with one line, and exit code 1, not a traceback."""
    try:
        yield
    except _wrong() as error:
        log.debug("the worker does not start", exc_info=True)  # for -l DEBUG
        raise Refusal(str(error)) from error


def _wrong() -> tuple[type[Exception], ...]:
    """Return what says that something is configured wrongly; Django's too, if there is one."""
    django = sys.modules.get("django.core.exceptions")
    return ConfigurationError, getattr(django, "ImproperlyConfigured", ConfigurationError)


def refuse_in_import() -> None:
    """
    Have ``celery -A proj`` print one line for what ``proj`` configures wrongly in its import.

    Whatever that import raises, the command fails with a traceback as its message. Called when
    ``proj`` imports this package: the command that is just running gets another ``fail``; there is
    no other hook. Where no such command runs, nothing is done.
    """
    context = click.get_current_context(silent=True)
    command = getattr(sys.modules.get("celery.bin.celery"), "celery", None)
    if context is None or command is None or context.command is not command:
        return
    fail = context.fail

    def fail_shortly(message: str) -> NoReturn:
        if (wrong := _configuration_error(sys.exception())) is not None:
            raise Refusal(f"{_place(wrong)}{wrong}") from wrong
        fail(message)

    setattr(context, "fail", fail_shortly)  # noqa: B010  # a method, to mypy


def _configuration_error(error: BaseException | None) -> ConfigurationError | None:
    """Return the first one in the chain; kombu makes other errors of what an import raises."""
    while error is not None and not isinstance(error, ConfigurationError):
        error = error.__cause__ or error.__context__
    return error


def _place(error: ConfigurationError) -> str:
    """Return the line of the user's that raised it, as the beginning of a sentence."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((OURS, "<")):
            return f"{os.path.relpath(frame.filename)}, line {frame.lineno}: "
    return ""
