"""``manage.py datastream_control``, which pauses, resumes or reconnects a stream."""

from __future__ import annotations

import getpass
import socket
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...conf import streams_settings
from ...control import KEY_VERBS, VERBS, ask
from ...health import is_fleet, known, report
from ...models import StreamCommand, StreamStatus
from ..arguments import seconds
from ..errors import explained

LOOK_SECONDS = 0.2


class Command(BaseCommand):
    help = (
        "Pauses, resumes or reconnects a stream. The processes that run it carry out the command "
        "with their next heartbeat. A pause lasts until resume, even in processes that start "
        "later. Exit codes: 0 requested, 1 not carried out in time, or no process runs the stream."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("verb", choices=VERBS, help="Command to carry out")
        parser.add_argument("alias", metavar="ALIAS", help="Name of the stream")
        parser.add_argument(
            "key", metavar="KEY", nargs="?", help="Key of one stream of a fleet, for reconnect"
        )
        parser.add_argument(
            "--wait",
            type=seconds,
            default=0.0,
            metavar="SECONDS",
            help="Seconds to wait until the command is carried out (default: 0)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        alias, verb = options["alias"], options["verb"]
        with explained("The command cannot be stored"):
            stream = known(alias)
            refuse_key(alias, verb, options["key"])
            [found] = report([stream], details=False)
            if not found.is_live and verb == "reconnect":
                raise CommandError(f"No process runs the stream {alias!r}. {how_to_start(alias)}")
            by = f"{getpass.getuser()}@{socket.gethostname()}"
            command = ask(stream, verb, by, options["key"] or "")
            self.follow(command, options["wait"], is_live=found.is_live)

    def follow(self, command: StreamCommand, seconds: float, *, is_live: bool) -> None:
        """Wait until a process has carried out the command, and report the result."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and command.obeyed_at is None:
            time.sleep(LOOK_SECONDS)
            command.refresh_from_db()
        if command.obeyed_at is not None:
            self.stdout.write(
                f"{command.stream}: {command.verb} carried out by {command.obeyed_by}"
            )
        elif seconds:
            raise CommandError(
                f"No process has carried out the command within {seconds:g} s. "
                "Check `manage.py datastream_status`."
            )
        elif is_live:
            self.stdout.write(f"{command.stream}: {command.verb} requested")
        else:
            self.stdout.write(
                f"{command.stream}: {command.verb} requested; no process runs the stream now"
            )


def how_to_start(alias: str) -> str:
    if alias in streams_settings:
        return f"Start one with `manage.py run_datastream {alias}`."
    return "Start the program that reported it: it is not in DATASTREAMS."


def refuse_key(alias: str, verb: str, key: str | None) -> None:
    """Raise CommandError if the command does not work with this key."""
    if key is None:
        return
    if not is_fleet(alias):
        raise CommandError(f"The stream {alias!r} has no SOURCE, so it has no keys. Leave out KEY.")
    if verb not in KEY_VERBS:
        raise CommandError(
            f"{verb} is for the whole fleet. Leave out KEY, or remove the row from SOURCE."
        )
    if not StreamStatus.objects.filter(stream=f"{alias}/{key}").exists():
        raise CommandError(
            f"No process runs the stream {alias}/{key}. Check the key with `manage.py "
            f"datastream_status {alias} --key {key}`."
        )
