"""
The one seam: what adapters and leaves may use of the core besides its public names.

An adapter for another framework imports ``datastream_ws``, this module and
``datastream_ws.runner``, and nothing else. What is imported here is handed on from the module
where it lives; what is defined here all adapters have in common.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .client import Client, Queued
from .codecs import codec_for
from .connection.opening import proxy_for
from .exceptions import ConfigurationError, said
from .forks import in_child
from .handlers import Call, Decorators, Handler, check_function
from .handling.callers import InlineCaller, drive
from .handling.contexts import HandlerRun
from .handling.current import handling
from .handling.deliver import deliver
from .health import (
    DEAD,
    HEALTHY,
    HEALTHY_SHARE,
    MAX_AGE,
    StreamHealth,
    describe,
    is_fresh,
    is_healthy,
    read_health_file,
    state_of_many,
    write_health_file,
)
from .lease import lease_for
from .lease.liveness import Liveness
from .lease.shared import Held, MemberRecord, SharedView
from .log_fields import EscapingFormatter, about, fields, write
from .messages import Message, Origin
from .option_checks import check_headers, check_url
from .options import ClientOptions
from .process.handler_threads import is_handler_thread
from .process.signals import signals_to
from .redaction import Hidden, escaped, hides_arguments, peer_text, shown_url
from .status_table import StatusRow, age, counts_of, fleet_note, row_of, share_note, show, watch

if TYPE_CHECKING:
    from .fleet.fleet import Fleet

__all__ = [
    "DEAD",
    "FATAL_DELAY",
    "HEALTHY",
    "HEALTHY_SHARE",
    "MAX_AGE",
    "Call",
    "Decorators",
    "EscapingFormatter",
    "Handler",
    "HandlerRun",
    "Held",
    "Hidden",
    "InlineCaller",
    "Liveness",
    "MemberRecord",
    "Origin",
    "Queued",
    "SharedView",
    "StatusRow",
    "StreamHealth",
    "about",
    "age",
    "argument_for",
    "check_function",
    "check_headers",
    "check_stream",
    "check_url",
    "client_of",
    "codec_for",
    "counts_of",
    "current_key",
    "deliver",
    "describe",
    "drive",
    "embedded_fleet",
    "embedded_options",
    "escaped",
    "fields",
    "fleet_note",
    "hides_arguments",
    "in_child",
    "is_dotted_path",
    "is_fresh",
    "is_handler_thread",
    "is_healthy",
    "is_stream_of_settings",
    "lease_for",
    "name_of",
    "peer_text",
    "prepare",
    "proxy_for",
    "read_health_file",
    "resolved",
    "row_of",
    "said",
    "share_note",
    "show",
    "shown_url",
    "signals_to",
    "state_of_many",
    "watch",
    "write",
    "write_health_file",
]

PLACEHOLDER = "ws://localhost"  # each row has a URL of its own; this one is never dialled
FATAL_DELAY = 300.0  # seconds between attempts after a fatal error, where no supervisor restarts


# --- a client in a process that a framework runs ---------------------------------------------


def embedded_defaults(*, foreground: bool) -> dict[str, Any]:
    """
    Return the options that an adapter's clients have unless settings say otherwise.

    Args:
        foreground: For a command that a supervisor restarts: a fatal error ends it. Elsewhere
            the process has other work, and outlives an invalid key.

    """
    return {
        "max_reconnect_attempts": None,
        "fatal_delay": None if foreground else FATAL_DELAY,
    }


@hides_arguments
def embedded_options(
    settings: Mapping[str, Any], *, foreground: bool = False, **defaults: Any
) -> ClientOptions:
    """Return options made of upper-case settings and of an adapter's defaults."""
    return ClientOptions.from_mapping(
        settings, **embedded_defaults(foreground=foreground) | defaults
    )


@hides_arguments
def embedded_fleet(
    source: Callable[[], Any],
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
    kind: type[Fleet] | None = None,
    **defaults: Any,
) -> Fleet:
    """
    Return a fleet made of settings, which outlives the failure of each of its streams.

    Args:
        source: As of :class:`Fleet`.
        settings: Upper-case options of its streams.
        arguments: Of the fleet itself: *refresh*, *start_rate*, *limit*.
        kind: A class of the adapter's own.
        **defaults: More options, which settings override.

    Raises:
        ConfigurationError: If one of them cannot work.

    """
    from .fleet.fleet import Fleet  # most programs have none

    given = ClientOptions.from_mapping({"URL": PLACEHOLDER, **settings})
    chosen = {name: getattr(given, name) for name in given.chosen - {"url"}}
    own: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value  # as JSON has it
        for name, value in arguments.items()
    }
    return (kind or Fleet)(source, **own, **{**defaults, **chosen})


def prepare(
    client: Client | Fleet, *, foreground: bool, lease: bool = True, **defaults: Any
) -> None:
    """
    Give a client that is not started yet an adapter's defaults for what it has not chosen itself.

    Args:
        client: Or a fleet, which outlives the failure of each of its streams.
        foreground: As of :func:`embedded_defaults`.
        lease: Whether a lease that was chosen is used.
        **defaults: More options.

    """
    if isinstance(client, Client):
        defaults = embedded_defaults(foreground=foreground) | defaults
    options = client.options.with_defaults(**defaults)
    options = options if lease else options.replace(lease=None)
    if isinstance(client, Client):
        client.aio.options = options
    else:
        client.options = options


# --- streams, whatever framework they are of -------------------------------------------------


def is_stream_of_settings(given: Any) -> bool:
    """Whether *given* is a stream of Django's ``DATASTREAMS``."""
    return hasattr(type(given), "prepare")


def name_of(given: Any) -> str:
    """Return the name of a client or stream, without building anything."""
    # A Django stream's name is its alias; asking for `name` would read the settings.
    name: str = given.alias if is_stream_of_settings(given) else given.name
    return name


def client_of(given: Any, flask_app: Any = None) -> Any:
    """Return the client of this process behind a stream; raises what wrong settings raise."""
    if flask_app is not None:
        with flask_app.app_context():
            return given.client
    return given.client if is_stream_of_settings(given) else given


def check_stream(given: Any, flask_app: Any, verb: str) -> None:
    """
    Refuse what is neither a client nor a stream.

    Args:
        verb: The function that was given it, for the error.

    Raises:
        ConfigurationError: Also if a Flask stream comes without its app, or an app without one.

    """
    is_flask = hasattr(type(given), "init_app")
    if not (hasattr(type(given), "stats") or is_flask or is_stream_of_settings(given)):
        kind = type(given).__name__
        raise ConfigurationError(
            f"{verb}: must be a Client, or a stream of Django or Flask, not {kind}"
        )
    if is_flask and flask_app is None:
        raise ConfigurationError(f"{verb}: a Flask stream requires its app. Pass flask_app=….")
    if flask_app is not None and not is_flask:
        raise ConfigurationError(f"{verb}: flask_app is only for a Flask stream")


# --- messages as tasks ------------------------------------------------------------------------


def argument_for(message: Message) -> dict[str, Any]:
    """Return a message as JSON can carry it: a binary payload in base64, a key as a text."""
    data = message.data
    argument: dict[str, Any] = {
        "data": data,
        "route": message.route,
        "seq": message.seq,
        "connection": message.connection,
        "epoch": message.epoch,
        "received_at": message.received_at,
        "stream": message.stream,
    }
    if message.key is not None:  # a whole number is one in JSON, too
        argument["key"] = message.key if isinstance(message.key, int) else str(message.key)
    if isinstance(data, bytes):
        argument["data"] = base64.b64encode(data).decode("ascii")
        argument["binary"] = True
    return argument


# --- dotted paths in settings ----------------------------------------------------------------

# Options that take a callable, a class or an object; elsewhere a text is a text.
DOTTED = {
    *("SOURCE", "URL", "HEADERS", "MESSAGE_HANDLER", "CONNECTION_READY_HANDLER", "LOGGER", "RETRY"),
    *("HEARTBEAT", "SSL", "LEASE", "CONFLATE", "ORDERING_KEY", "RETRY_MESSAGE", "CODEC", "ROUTE"),
}
OBJECTS = {"MESSAGE_HANDLER", "CONNECTION_READY_HANDLER", "LOGGER", "LEASE", "CODEC"}
DOTTED_PATH = re.compile(r"[^\W\d]\w*(?:[.:][^\W\d]\w*)+")


def is_dotted_path(value: Any) -> bool:
    """Whether a setting names something to import; a text with ``://`` is a URL."""
    return isinstance(value, str) and DOTTED_PATH.fullmatch(value) is not None


def resolved(key: str, value: Any) -> Any:
    """
    Return what a setting stands for: a dotted path is imported, a class of objects is made one.

    Raises:
        ImportError: If there is nothing at the end of the path, or what is there fails itself.

    """
    if key not in DOTTED or not is_dotted_path(value):
        return value
    module, _, name = value.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), name)
        return found() if key in OBJECTS and isinstance(found, type) else found
    except Exception as error:
        raise ImportError(f"{value!r} cannot be imported: {said(error)}") from error


def current_key() -> Any:
    """Return the key of the fleet's stream whose handler or hook runs here, else ``None``."""
    return getattr(handling.get(), "key", None)
