"""
System checks of the settings, with the tag ``datastream``. They open no connections.

Errors E001 to E004 are settings that cannot work. Warnings W001 to W004 don't stop ``migrate`` or
the rest of the project. Warnings W010 to W012 appear with ``check --deploy``.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from datastream_ws import Handlers

from .conf import DATABASE_LEASE, StreamSettings, streams_settings
from .streams import datastreams

__all__ = ["check_deployment", "check_settings"]

TAG = "datastream"
# Parts of parameter names that indicate a secret in a query string.
SECRET_WORDS = ("token", "secret", "password", "passwd", "apikey", "api_key", "api-key", "auth")

Apps = Sequence[AppConfig] | None


@register(TAG)
def check_settings(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """Check ``DATASTREAMS`` as a whole, then each stream in it."""
    try:
        aliases = list(streams_settings)
    except ImproperlyConfigured as error:
        return [Error(str(error), id="datastream.E001")]
    messages = [message for alias in aliases for message in check_stream(alias)]
    return messages + list(check_unknown_aliases(aliases))


def check_stream(alias: str) -> Iterator[CheckMessage]:
    try:
        stream = streams_settings[alias]
    except ImproperlyConfigured as error:
        yield Error(str(error), id="datastream.E002")
        return
    try:
        stream.resolved()
    except ImproperlyConfigured as error:
        yield Error(str(error), id="datastream.E003")
        return
    if stream.url is None and not stream.is_fleet:
        yield Warning(
            str(stream.wrong("URL: is missing, so `run_datastream` cannot start")),
            hint='Add "URL": "wss://…", or the dotted path of a callable that returns one.',
            id="datastream.W001",
        )
    yield from check_options(stream)
    yield from check_databases(stream)


def check_options(stream: StreamSettings) -> Iterator[CheckMessage]:
    try:
        lease = stream.options.get("LEASE") != DATABASE_LEASE  # which needs no check here
        stream.offline_options(lease=lease)
        if stream.is_fleet:
            stream.fleet(Handlers(), lease=lease)
    except ImproperlyConfigured as error:
        yield Error(str(error), id="datastream.E004")


def check_databases(stream: StreamSettings) -> Iterator[CheckMessage]:
    handlers = datastreams[stream.alias].handlers
    if stream.atomic is not None and handlers.has_message_handlers and handlers.all_async:
        yield Warning(
            str(
                stream.wrong("ATOMIC: has no effect, because all handlers are coroutine functions")
            ),
            hint="Django has no transactions in coroutines. Use synchronous handlers.",
            id="datastream.W003",
        )
    for alias, database in settings.DATABASES.items():
        if stream.enabled and database.get("CONN_MAX_AGE", 0) != 0 and _unchecked(database):
            yield Warning(
                f"database {alias!r} keeps connections (CONN_MAX_AGE) but never checks them",
                hint='Set "CONN_HEALTH_CHECKS": True, because a stream may be silent for hours '
                "and the server may close the connection in that time.",
                id="datastream.W004",
            )


def _unchecked(database: dict[str, Any]) -> bool:
    return not database.get("CONN_HEALTH_CHECKS", False) and "sqlite" not in database["ENGINE"]


def check_unknown_aliases(configured: list[str]) -> Iterator[CheckMessage]:
    for stream in datastreams.made:
        if stream.alias not in configured and stream.has_handlers:
            known = ", ".join(map(repr, configured)) or "none"
            yield Warning(
                f"handlers use the stream {stream.alias!r}, which is not in DATASTREAMS",
                hint=f"Streams in the settings: {known}.",
                id="datastream.W002",
            )


@register(TAG, deploy=True)
def check_deployment(app_configs: Apps = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the encryption of each stream, and its URL for secrets."""
    messages: list[CheckMessage] = []
    with suppress(ImproperlyConfigured):  # check_settings reports it
        for alias in streams_settings:
            with suppress(ImproperlyConfigured):
                stream = streams_settings[alias]
                messages += [*check_url(stream), *check_tls(stream)]
    return messages


def check_url(stream: StreamSettings) -> Iterator[CheckMessage]:
    url = stream.url
    if not isinstance(url, str) or "://" not in url:
        return
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return
    if parts.scheme == "ws" and not is_local(host):
        yield Warning(
            str(stream.wrong("URL: ws:// to another machine is not encrypted")),
            hint="Use wss://.",
            id="datastream.W010",
        )
    names = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if any(word in name or name == "key" for name in names for word in SECRET_WORDS):
        yield Warning(
            str(stream.wrong("URL: seems to contain a secret in its query string")),
            hint="Servers and proxies log URLs. Send secrets in HEADERS.",
            id="datastream.W012",
        )


def is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_tls(stream: StreamSettings) -> Iterator[CheckMessage]:
    context = stream.resolved().get("SSL")
    if not isinstance(context, ssl.SSLContext):
        return
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        yield Warning(
            str(stream.wrong("SSL: does not verify the server's certificate")),
            hint="Load a private CA with load_verify_locations() instead.",
            id="datastream.W011",
        )
