"""The commands ``flask datastream run`` and ``flask datastream status``."""

from __future__ import annotations

import functools
import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup, ScriptInfo, pass_script_info

from datastream_ws import Client, ConfigurationError, Fleet, SpoolError, State
from datastream_ws.embedding import (
    LONGEST_SECONDS,
    MAX_AGE,
    StatusRow,
    StreamHealth,
    is_healthy,
    quiet_in_pipe,
    row_of,
    show,
    watch,
)
from datastream_ws.runner import Runner, leave

from .health import written_health
from .settings import HEALTH_FILE, NAMED
from .status import django_rows
from .streams import AppStream, streams_of

__all__ = ["group"]


class Seconds(click.FloatRange):
    """A duration. NaN is refused, which click's own type takes for a number of every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return number


group = AppGroup("datastream", help="Run the app's WebSocket streams, and show their status.")

names_argument = click.argument("names", metavar="[NAME]...", nargs=-1)
health_file_option = click.option(
    "--health-file",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help=f"Use this health file  [default: {HEALTH_FILE}]",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Show the traceback of a configuration error"
)


# Without an app context, because the command needs none and each handler has its own.
@group.command("run", with_appcontext=False)
@names_argument
@click.option("--reload", is_flag=True, help="Restart when a source file changes")
@click.option(
    "--max-messages", metavar="N", type=click.IntRange(min=1), help="Stop after N messages"
)
@click.option(
    "--shutdown-timeout",
    metavar="S",
    type=Seconds(min=0, min_open=True, max=LONGEST_SECONDS),
    help="Wait up to S seconds for the shutdown  [default: CLOSE_TIMEOUT of each stream]",
)
@health_file_option
@click.option("--no-lease", is_flag=True, help="Connect without waiting for a lease")
@verbose_option
@pass_script_info
def run(info: ScriptInfo, /, names: tuple[str, ...], reload: bool, **words: Any) -> None:
    """
    Run streams until SIGINT or SIGTERM. Without a name, all enabled streams run.

    \b
    Exit codes: 0 stopped, 1 invalid configuration, 2 usage,
    3 a stream gave up, 4 the shutdown took too long, or a second signal.
    """
    app = info.load_app()
    if reload:
        run_reloading(app, names, words)
    leave(run_streams(app, names, **words))


def run_streams(
    app: Flask,
    names: Sequence[str],
    *,
    max_messages: int | None,
    shutdown_timeout: float | None,
    health_file: str | None,
    no_lease: bool,
    verbose: bool,
) -> int:
    """Run the clients of *app* until they end, and return the exit code."""
    with refusing(verbose):
        streams = chosen(app, names)
        clients = [stream.foreground_client(lease=not no_lease) for stream in streams]
        with django_rows(clients) as on_beat:
            runner = Runner(
                clients,
                shutdown_timeout=shutdown_timeout,
                max_messages=max_messages,
                health_file=health_file or app.config.get(HEALTH_FILE),
                on_beat=on_beat,
            )
            code = runner.run()
    for client in clients:
        say_why(client)
    return code


@contextmanager
def refusing(verbose: bool) -> Iterator[None]:
    """Turn configuration errors into one line. If *verbose*, also print the traceback."""
    try:
        yield
    except (ConfigurationError, SpoolError) as error:
        if verbose:
            traceback.print_exc()
        raise click.ClickException(str(error)) from error


def say_why(client: Client | Fleet) -> None:
    """Print why a stream failed, unless Python has already printed the log record to stderr."""
    if (
        isinstance(client, Client)
        and client.state is State.FAILED
        and logging.getLogger("datastream_ws").hasHandlers()
    ):
        click.echo(f"stream {client.name} failed: {client.error}", err=True)


def run_reloading(app: Flask, names: Sequence[str], words: dict[str, Any]) -> None:
    """Run in a child process that restarts when a source file changes. It never returns."""
    from werkzeug._reloader import run_with_reloader

    def main() -> None:
        try:
            run_streams(app, names, **words)
        except click.ClickException as error:
            error.show()
        click.echo("waiting for a source file to change", err=True)

    run_with_reloader(main)
    sys.exit(0)


@group.command("status", with_appcontext=False)
@names_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.option(
    "--watch", "again", is_flag=True, help="Repeat the output every 2 seconds until Ctrl-C"
)
@click.option(
    "--max-age",
    metavar="S",
    type=Seconds(min=0, max=LONGEST_SECONDS),
    default=MAX_AGE,
    show_default=True,
    help="Treat reports that are older than S seconds as stale",
)
@health_file_option
@verbose_option
@pass_script_info
def status(
    info: ScriptInfo,
    /,
    names: tuple[str, ...],
    as_json: bool,
    again: bool,
    max_age: float,
    health_file: str | None,
    verbose: bool,
) -> None:
    """
    Show the status of streams, from the health file of `flask datastream run`.

    \b
    Exit codes: 0 all streams are healthy, 1 a stream is unhealthy, stale or never started.
    """
    app = info.load_app()
    with refusing(verbose), quiet_in_pipe():
        wanted = {stream.name: stream.settings.healthy_share for stream in chosen(app, names)}
        path = health_file or app.config.get(HEALTH_FILE)
        look = functools.partial(looked, wanted, path, max_age, as_json)
        if again:
            well = watch(look, sys.stdout, redrawn=False if as_json else None)
        else:
            text, well = look()
            click.echo(text)
    sys.exit(0 if well else 1)


def looked(
    wanted: Mapping[str, float], path: str | None, max_age: float, as_json: bool
) -> tuple[str, bool]:
    """
    Return the status of streams as a text, and whether all streams are healthy.

    Args:
        wanted: The names of the streams, and the share of a fleet that must be healthy.
        path: The health file. ``None`` if none is set, which is an error.
        max_age: Seconds after which a report is stale.
        as_json: Whether the text is JSON instead of a table.

    """
    found = seen(path)
    now = time.time()
    facts = [(name, found.get(name), now, max_age, share) for name, share in wanted.items()]
    report = [described(*each) for each in facts]
    text = json.dumps(report) if as_json else show([row(*each) for each in facts], sys.stdout)
    return text, bool(report) and all(stream["healthy"] for stream in report)


def chosen(app: Flask, names: Sequence[str]) -> list[AppStream]:
    """Return the streams with these names, or all enabled streams if there are no names."""
    streams = streams_of(app)
    for name in names:
        if name not in streams:
            known = ", ".join(streams)
            raise ConfigurationError(
                f"app {app.name!r} has no stream {name!r}, only {known}. Create it with "
                f"DataStream(name={name!r}) and init_app(), and configure {NAMED}[{name!r}]."
            )
    found = [streams[name] for name in dict.fromkeys(names or streams)]
    enabled = [stream for stream in found if stream.is_enabled]
    if not enabled or (names and enabled != found):
        raise ConfigurationError(
            "no stream is enabled. Set ENABLED to True in the config of the stream."
        )
    return enabled


def seen(path: str | None) -> dict[str, StreamHealth]:
    """Return the health file's entries by name. A file that no runner has written yet has none."""
    if not path:
        raise ConfigurationError(
            f"no health file is set. Set app.config['{HEALTH_FILE}'], or pass --health-file to "
            "`flask datastream run` and to this command."
        )
    try:
        return written_health(path)
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is not a health file. Pass the one that `flask datastream run` writes."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"the health file cannot be read: {error}") from error


def described(
    name: str, health: StreamHealth | None, now: float, max_age: float, share: float
) -> dict[str, Any]:
    """Return the health of one stream or fleet for JSON."""
    if health is None:
        return {"name": name, "healthy": False, "state": "never started"}
    healthy = is_healthy(health, now, max_age, share)
    return {"name": name, "healthy": healthy, **asdict(health), "age": round(now - health.at, 1)}


def row(
    name: str, health: StreamHealth | None, now: float, max_age: float, share: float
) -> StatusRow:
    """Return the health of one stream or fleet as a row of the table."""
    if health is None:
        return StatusRow(stream=name, state="never started", is_healthy=False)
    return row_of(health, now, max_age, f"process {health.pid}", share)
