"""The remote commands, such as ``celery inspect datastream``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from celery.worker.control import control_command, inspect_command

from .. import Client, Fleet, NotConnectedError
from ..embedding import describe
from .sources import Stream

__all__: list[str] = []

NONE_HERE = "no stream runs in this worker. Start it with --datastream."


@inspect_command(name="datastream")  # type: ignore[untyped-decorator,unused-ignore]
def datastream(state: Any, **_: Any) -> dict[str, Any]:
    """Show the state and counters of each worker's WebSocket streams."""
    now = time.time()
    return {stream.name: asdict(describe(stream.client, now)) for stream in _streams(state)}


def _command(verb: str, explained: str) -> None:
    def command(state: Any, name: str | None = None, **_: Any) -> dict[str, Any]:
        return _each(state, name, verb, lambda client: getattr(client, verb)())

    control_command(
        name=f"datastream_{verb}", args=[("name", str)], signature="[NAME]", help=explained
    )(command)


_command("pause", "Close the connection of a stream, or of all, and stay offline.")
_command("resume", "Connect again after datastream_pause.")


@control_command(  # type: ignore[untyped-decorator,unused-ignore]
    name="datastream_reconnect", args=[("name", str), ("key", str)], signature="[NAME [KEY]]"
)
def datastream_reconnect(
    state: Any, name: str | None = None, key: str | None = None, **_: Any
) -> dict[str, Any]:
    """Drop the connection of a stream, of one stream of a fleet, or of all, and connect again."""
    if key is None:
        return _each(state, name, "reconnect", lambda client: client.reconnect())
    try:
        return _each(state, name, "reconnect", lambda client: _one_of(client, key).reconnect())
    except KeyError:
        return {"error": f"no stream {name}/{key} runs in this worker"}


def _one_of(client: Client | Fleet, key: str) -> Client:
    """Return a stream of a fleet. Raises KeyError if it doesn't run here."""
    if isinstance(client, Client):
        raise KeyError(key)
    return client[key]


def _each(state: Any, name: str | None, verb: str, call: Callable[[Any], None]) -> dict[str, Any]:
    """Make *call* with one stream or all, and return a reply like those of Celery's commands."""
    streams = _streams(state)
    wanted = [stream for stream in streams if name in (None, stream.name)]
    if not wanted:
        known = ", ".join(stream.name for stream in streams)
        unknown = f"no stream {name!r} runs in this worker. Use one of: {known}"
        return {"error": unknown if streams else NONE_HERE}
    try:
        for stream in wanted:
            call(stream.client)
    except NotConnectedError as error:
        return {"error": str(error)}
    return {"ok": f"{verb} requested for {', '.join(stream.name for stream in wanted)}"}


def _streams(state: Any) -> list[Stream]:
    step = getattr(state.consumer.controller, "datastream_step", None)
    found: list[Stream] = [] if step is None else step.streams
    return found
