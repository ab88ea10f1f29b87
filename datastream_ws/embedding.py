"""
The names that adapters for frameworks use, besides the public names of the package.

An adapter imports ``datastream_ws``, this module and ``datastream_ws.runner``, and nothing else.
This module exports names of other modules, and defines what all adapters have in common.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .client import Client, Queued
from .codecs import Serializable, codec_for
from .connection.opening import proxy_for
from .exceptions import LONGEST_SECONDS, ConfigurationError, said
from .forks import in_child
from .handlers import Call, Decorators, Handler, check_function, is_coroutine_callable
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
    health_from,
    is_fresh,
    is_healthy,
    read_health_file,
    state_of_many,
)
from .lease import lease_for
from .lease.liveness import Liveness
from .lease.shared import Held, MemberRecord, SharedView
from .log_fields import EscapingFormatter, about, fields, write
from .messages import Message, Origin
from .option_checks import check_headers, check_url
from .options import ClientOptions
from .process.handler_threads import is_handler_thread
from .process.signals import quiet_in_pipe, signals_to
from .redaction import Hidden, escaped, hides_arguments, peer_text, shown_url
from .status_table import StatusRow, age, counts_of, fleet_note, row_of, share_note, show, watch

if TYPE_CHECKING:
    from .fleet.fleet import Fleet

__all__ = [
    "DEAD",
    "FLEET_ARGUMENTS",
    "HEALTHY",
    "HEALTHY_SHARE",
    "LONGEST_SECONDS",
    "MAX_AGE",
    "NO_SOURCE",
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
    "Serializable",
    "SharedView",
    "StatusRow",
    "StreamHealth",
    "about",
    "age",
    "argument_for",
    "check_function",
    "check_headers",
    "check_key",
    "check_settings",
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
    "health_from",
    "hides_arguments",
    "in_child",
    "is_coroutine_callable",
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
    "quiet_in_pipe",
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
]

PLACEHOLDER = "ws://localhost"  # never used, because each row has its own URL
FATAL_DELAY = 300.0  # seconds between attempts after a fatal error, where no supervisor restarts


# --- a client in a process that a framework runs ---------------------------------------------


def embedded_defaults(*, foreground: bool) -> dict[str, Any]:
    """
    Return the defaults of an adapter's clients, which settings override.

    Args:
        foreground: ``True`` is for a command that a supervisor restarts, so a fatal error ends it.
            ``False`` is for a process with other work, so the client retries after a fatal error.

    """
    return {
        "max_reconnect_attempts": None,
        "fatal_delay": None if foreground else FATAL_DELAY,
    }


@hides_arguments
def embedded_options(
    settings: Mapping[str, Any], *, foreground: bool = False, **defaults: Any
) -> ClientOptions:
    """Return options made from upper-case settings and an adapter's defaults."""
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
    Return a fleet made from settings.

    Args:
        source: As for :class:`Fleet`.
        settings: Upper-case options of its streams.
        arguments: The arguments of the fleet itself, which are *refresh*, *start_rate* and *limit*.
        kind: A subclass of Fleet to use. ``None`` uses Fleet.
        **defaults: More options, which settings override.

    Raises:
        ConfigurationError: If a setting or an argument is invalid.

    """
    from .fleet.fleet import Fleet  # imported on first use, because most programs have no fleet

    given = ClientOptions.from_mapping({"URL": PLACEHOLDER, **settings})
    chosen = {name: getattr(given, name) for name in given.chosen - {"url"}}
    own: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value  # JSON has lists, not tuples
        for name, value in arguments.items()
    }
    return (kind or Fleet)(source, **own, **{**defaults, **chosen})


def prepare(
    client: Client | Fleet, *, foreground: bool, lease: bool = True, **defaults: Any
) -> None:
    """
    Set an adapter's defaults for the options that a client doesn't set itself.

    Args:
        client: A client or a fleet that isn't started yet. A fleet ignores *foreground*, because
            it continues when one of its streams fails.
        foreground: As for :func:`embedded_defaults`.
        lease: ``False`` ignores the option ``lease``.
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


# --- the settings that only adapters have ----------------------------------------------------

FLEET_ARGUMENTS = ("REFRESH", "START_RATE", "LIMIT")
FLEET_SETTINGS = (*FLEET_ARGUMENTS, "HEALTHY_SHARE")
NO_SOURCE = (
    'must be a function that returns {key: {"url": …}}, or its dotted path, for example '
    '"accounts.streams.accounts"'
)


def check_settings(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first invalid setting of a stream and what is wrong with it, or ``None``."""
    for key in ("ENABLED", "AUTOSTART"):
        if not isinstance(settings.get(key, True), bool):
            return key, f"must be True or False (given: {type(settings[key]).__name__})"
    source, share = settings.get("SOURCE"), settings.get("HEALTHY_SHARE", HEALTHY_SHARE)
    if source is None:
        only_fleets = (key for key in FLEET_SETTINGS if key in settings)
        return next(((key, "is only for a stream with SOURCE") for key in only_fleets), None)
    if settings.get("URL"):
        return "URL", "must not be set, because each row of SOURCE has its own URL"
    if not callable(source) and not is_dotted_path(source):
        return "SOURCE", NO_SOURCE
    if type(share) not in (int, float) or not 0 < share <= 1:
        return "HEALTHY_SHARE", "must be a number above 0, and at most 1"
    return None


# --- streams of any framework ----------------------------------------------------------------


def is_stream_of_settings(given: Any) -> bool:
    """Return whether *given* is a stream of Django's ``DATASTREAMS``."""
    return hasattr(type(given), "prepare")


def name_of(given: Any) -> str:
    """Return the name of a client or stream, without creating a client."""
    # The attribute `name` of a Django stream would read the settings.
    name: str = given.alias if is_stream_of_settings(given) else given.name
    return name


def client_of(given: Any, flask_app: Any = None) -> Any:
    """Return the client that a stream has in this process. Raises what invalid settings raise."""
    if flask_app is not None:
        with flask_app.app_context():
            return given.client
    return given.client if is_stream_of_settings(given) else given


def check_stream(given: Any, flask_app: Any, verb: str) -> None:
    """
    Verify that *given* is a client or a stream.

    Args:
        given: The value to verify.
        flask_app: The app of a Flask stream. ``None`` for any other stream.
        verb: The function that the user called. The error names it.

    Raises:
        ConfigurationError: If it's neither, if a Flask stream has no app, or if another stream has
            one.

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


def check_key(stream: str, key: Any, *, is_fleet: bool) -> None:
    """Raise TypeError if a message to deliver has no key in a fleet, or has one elsewhere."""
    if (key is not None) is not is_fleet:
        fact, cure = (
            ("a", "Pass key=…, the key of one of its rows.")
            if is_fleet
            else ("no", "Leave out key.")
        )
        raise TypeError(f"stream {stream!r} has {fact} SOURCE. {cure}")


# --- messages as tasks ------------------------------------------------------------------------


def argument_for(message: Message) -> dict[str, Any]:
    """Return a message as a dict for JSON. Binary data is in base64, and the key is a string."""
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
    if message.key is not None:  # JSON also has whole numbers
        argument["key"] = message.key if isinstance(message.key, int) else str(message.key)
    if isinstance(data, bytes):
        argument["data"] = base64.b64encode(data).decode("ascii")
        argument["binary"] = True
    return argument


# --- dotted paths in settings ----------------------------------------------------------------

# Options that take a callable, a class or an object. In other options a string is just a string.
DOTTED = {
    *("SOURCE", "URL", "HEADERS", "MESSAGE_HANDLER", "CONNECTION_READY_HANDLER", "LOGGER", "RETRY"),
    *("HEARTBEAT", "SSL", "LEASE", "CONFLATE", "ORDERING_KEY", "RETRY_MESSAGE", "CODEC", "ROUTE"),
}
OBJECTS = {"MESSAGE_HANDLER", "CONNECTION_READY_HANDLER", "LOGGER", "LEASE", "CODEC"}
DOTTED_PATH = re.compile(r"[^\W\d]\w*(?:[.:][^\W\d]\w*)+")


def is_dotted_path(value: Any) -> bool:
    """Return whether a setting is a dotted path to import. A string with ``://`` is a URL."""
    return isinstance(value, str) and DOTTED_PATH.fullmatch(value) is not None


def resolved(key: str, value: Any) -> Any:
    """
    Return the value of a setting. A dotted path is imported, and some classes are instantiated.

    Raises:
        ImportError: If the path can't be imported, or the class raises an exception.

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
    """Return the key of the fleet's stream whose handler or hook runs here, or ``None``."""
    return getattr(handling.get(), "key", None)
