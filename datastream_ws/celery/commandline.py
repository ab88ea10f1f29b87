"""The output in Celery's command line, which is errors on one line and the table of streams."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from .. import ConfigurationError
from ..embedding import MAX_AGE, StatusRow, health_from, quiet_in_pipe, row_of, show, watch

__all__ = ["refuse_in_import", "refusing", "table_in_inspect"]

log = logging.getLogger("datastream_ws.celery")

UNREADABLE = (
    "The worker's report cannot be read, because it runs another version of datastream-ws. Run "
    "this command with the version of the worker."
)
OURS = str(Path(__file__).parents[1])


class Refusal(ConfigurationError, click.ClickException):
    """A configuration error that Celery's command line prints on one line."""

    def __init__(self, text: str) -> None:
        click.ClickException.__init__(self, text)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn configuration errors into one line and exit code 1, without a traceback."""
    try:
        yield
    except _wrong() as error:
        log.debug("the worker does not start", exc_info=True)  # for -l DEBUG
        raise Refusal(str(error)) from error


def _wrong() -> tuple[type[Exception], ...]:
    """Return the types of configuration errors, including Django's if it's imported."""
    django = sys.modules.get("django.core.exceptions")
    return ConfigurationError, getattr(django, "ImproperlyConfigured", ConfigurationError)


def refuse_in_import() -> None:
    """
    Print one line if ``celery -A proj`` finds a configuration error in the import of ``proj``.

    Otherwise the command prints a traceback for each exception of that import. The function is
    called when ``proj`` imports this package. Celery has no hook for it, so it replaces the method
    ``fail`` of the running command. It has no effect if no such command runs.
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
    """Return the first one in the chain, because kombu wraps the exceptions of an import."""
    while error is not None and not isinstance(error, ConfigurationError):
        error = error.__cause__ or error.__context__
    return error


def _place(error: ConfigurationError) -> str:
    """Return the file and line of user code that raised *error*, as a prefix of the text."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((OURS, "<")):
            return f"{os.path.relpath(frame.filename)}, line {frame.lineno}: "
    return ""


# --- celery inspect datastream ---------------------------------------------------------------


def table_in_inspect() -> None:
    """
    Make ``celery inspect datastream`` print a table and accept ``--watch``.

    Celery prints replies as JSON and has no hook for another format, so this patches the command.
    It has no effect outside of Celery's command line.
    """
    module = sys.modules.get("celery.bin.control")
    command = getattr(module, "inspect", None)
    if command is None or any(each.name == "watch" for each in command.params):
        return
    command.params.append(
        click.Option(
            ["--watch"], is_flag=True, help="Repeat datastream every 2 seconds until Ctrl-C"
        )
    )
    inspect = command.callback

    @functools.wraps(inspect)
    def inspect_streams(*args: Any, watch: bool, **options: Any) -> Any:
        if options["command"] != "datastream" or options["json"]:
            return inspect(*args, **options)
        return _show(click.get_current_context().obj.app, watch, options)

    command.callback = inspect_streams


def _show(app: Any, again: bool, options: dict[str, Any]) -> None:
    """Print the table of the streams of all workers. Exit with 1 unless all are healthy."""
    look = functools.partial(_look, app, options["timeout"], options["destination"])
    with quiet_in_pipe():
        if again:
            well = watch(look, sys.stdout)
        else:
            text, well = look()
            click.echo(text)
    click.get_current_context().exit(0 if well else 1)


def _look(app: Any, timeout: float, destination: Any) -> tuple[str, bool]:
    """Return the table, and whether all streams are healthy."""
    replies: dict[str, Any] = {}
    answers = app.control.broadcast(
        "datastream", reply=True, timeout=timeout, destination=destination
    )
    for answer in answers or ():
        replies.update(answer)
    rows = [row for node, reply in sorted(replies.items()) for row in _rows(node, reply)]
    if not rows:
        return "No worker with a stream responded. Start one with --datastream.", False
    return show(rows, sys.stdout), all(row.is_healthy for row in rows)


def _rows(node: str, reply: Any) -> Iterator[StatusRow]:
    for name, facts in reply.items():
        if not isinstance(facts, dict):  # the text of an error
            yield StatusRow(stream="-", state=name, is_healthy=False, runner=node, error=str(facts))
            continue
        try:
            health = health_from(facts)
        except (TypeError, ValueError):
            yield StatusRow(
                stream=name, state="unknown", is_healthy=False, runner=node, error=UNREADABLE
            )
        else:
            yield row_of(health, health.at, MAX_AGE, node)
