"""The command ``datastream-ws check``, which tests a connection step by step."""

from __future__ import annotations

import argparse
import base64
import socket
import ssl
import sys
import time
import traceback
from concurrent.futures import Future
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import Client, State
from ..embedding import check_url, escaped, peer_text, proxy_for, shown_url
from .advice import (
    Trouble,
    certificate_text,
    handshake_trouble,
    hung_up_trouble,
    lookup_trouble,
    reach_trouble,
    tls_trouble,
)
from .certificates import proxy_context, server_context
from .lines import one_line
from .listening import show_log

__all__ = ["check"]

MOST_ADDRESSES = 4
PING_INTERVAL = 0.2  # seconds
ALERT_WAIT = 0.5  # seconds
STEPS = ("URL", "Proxy", "DNS", "TCP", "TLS", "Handshake", "Ping")


def check(wanted: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    report: Report | JsonReport = JsonReport() if wanted.as_json else Report()
    show_log(report, wanted.verbose)
    with closing(Checking(wanted)) as checking:
        for name in STEPS:
            try:
                report.good(name, getattr(checking, name.lower())())
            except Trouble as trouble:
                report.bad(name, trouble)
                if wanted.verbose:
                    traceback.print_exception(trouble)
                report.end(name)
                return 1
    report.end(None)
    return 0


class Checking:
    """The steps of the check. Each is a method that returns a text, or raises :class:`Trouble`."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self._wanted = wanted
        self._url: str = wanted.url
        self._timeout: float = wanted.timeout
        self._context = server_context(wanted)
        self._proxy_context = proxy_context(wanted)
        self._proxy: str | None = None
        self._addresses: list[str] = []
        self._client: Client | None = None

    @property
    def _target(self) -> tuple[str, int]:
        """The host and port of the server."""
        return host_and_port(self._url)

    @property
    def _peer(self) -> tuple[str, int]:
        """The host and port of the proxy, or of the server without a proxy."""
        return host_and_port(self._proxy or self._url)

    def url(self) -> str:
        if wrong := check_url(self._url):
            raise Trouble(f"the URL {wrong}", "use the form wss://host/path, in quotes")
        secure = self._url.startswith("wss:")
        how = "encrypted" if secure else "not encrypted"
        if not secure and self._target[0] not in ("localhost", "127.0.0.1", "::1"):
            how += ", so others can read and change it"
        return f"{shown_url(self._url)}, port {self._target[1]}, {how}"

    def proxy(self) -> str:
        try:
            self._proxy = proxy_for(self._url)
        except Exception as error:
            raise Trouble(
                "the proxy in the environment is not valid",
                "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or exclude the host with NO_PROXY",
            ) from error
        if self._proxy is None:
            return "none"
        return f"{shown_url(self._proxy)}, from the environment (HTTPS_PROXY, …)"

    def dns(self) -> str:
        host, port = self._peer
        began = time.monotonic()
        try:
            found = within(
                self._timeout, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise lookup_trouble(host, error) from error
        self._addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if self._addresses == [host]:
            return f"{host} is an IP address"
        shown = ", ".join(self._addresses[:MOST_ADDRESSES])
        more = len(self._addresses) - MOST_ADDRESSES
        return f"{host} is {shown}{f' and {more} more' if more > 0 else ''}{took(began)}"

    def tcp(self) -> str:
        port = self._peer[1]
        failures: dict[str, OSError] = {}
        for address in self._addresses[:MOST_ADDRESSES]:
            began = time.monotonic()
            try:
                socket.create_connection((address, port), self._timeout).close()
            except OSError as error:
                failures[address] = error
            else:
                dead = "".join(f", but {each} does not" for each in failures)
                return f"{address} responds on port {port}{took(began)}{dead}"
        first, why = next(iter(failures.items()))
        raise reach_trouble(first, port, why, via_proxy=self._proxy is not None) from why

    def tls(self) -> str:
        if not self._url.startswith("wss:"):
            return "not used with ws://"
        scheme = urlsplit(self._proxy).scheme if self._proxy else ""
        if scheme not in ("", "http"):
            return f"through the {scheme} proxy; tested with the handshake"
        host = self._target[0]
        context = self._context or ssl.create_default_context()
        try:
            with self._connected() as sock, context.wrap_socket(sock, server_hostname=host) as tls:
                certificate: Any = tls.getpeercert() or {}
                wait_for_alert(tls)
                return f"{tls.version()}, {certificate_text(certificate, time.time())}"
        except (OSError, HTTPException) as error:  # SSLError is an OSError
            raise tls_trouble(host, error) from error

    def _connected(self) -> socket.socket:
        """Return a TCP connection to the server, through an HTTP proxy if there is one."""
        host, port = self._target
        if not self._proxy:
            return socket.create_connection((host, port), self._timeout)
        tunnel = HTTPConnection(*self._peer, timeout=self._timeout)
        tunnel.set_tunnel(host, port, authorization(self._proxy))
        tunnel.connect()
        return tunnel.sock

    def handshake(self) -> str:
        wanted = self._wanted
        client = self._client = Client(
            self._url,
            headers=wanted.headers,
            ssl=self._context if self._url.startswith("wss:") else None,
            proxy_ssl=self._proxy_context,
            subprotocols=wanted.subprotocols or None,
            open_timeout=self._timeout,
            ping_interval=PING_INTERVAL,
            max_reconnect_attempts=1,
        )
        began = time.monotonic()
        client.start()
        try:
            client.wait_ready(self._timeout + 1.0)
        except Exception as error:
            raise handshake_trouble(self._url, error) from error
        return f"the server accepted the connection{took(began)}"

    def ping(self) -> str:
        client = self._client
        assert client is not None
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            trip = client.stats().round_trip_time
            if trip is not None:
                return f"answered in {milliseconds(trip)}{received(client)}"
            if client.state is State.FAILED:
                raise handshake_trouble(self._url, client.error)
            time.sleep(0.01)
        raise Trouble(
            f"no response within {self._timeout:g} s",
            "report it to the operator, because the protocol requires pongs; to use the server "
            "anyway, set ping_interval=None, so that only pong_timeout detects silent connections",
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close(1.0)


class Report:
    """A report that prints a line for each step, with colors on a terminal."""

    def __init__(self) -> None:
        with suppress(AttributeError):
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        width = None if sys.stdout.isatty() else 200
        self._console = Console(highlight=False, markup=False, emoji=False, width=width)
        self._marks = "✓✗" if "utf" in self._console.encoding.lower() else "+x"

    def good(self, name: str, text: str) -> None:
        self._row(Text(self._marks[0], "green"), Text(name), Text(escaped(text)))

    def bad(self, name: str, trouble: Trouble) -> None:
        self._row(Text(self._marks[1], "bold red"), Text(name, "bold"), Text(escaped(trouble.text)))
        self._row(Text(" "), Text(), Text(escaped(trouble.advice), "yellow"))

    def event(self, topic: str, text: str) -> None:
        self._row(Text(" "), Text(), Text(peer_text(text), "dim"))

    def end(self, stopped_at: str | None) -> None:
        """Print the result. *stopped_at* is the failed step, or ``None`` if all steps passed."""
        if stopped_at is None:
            self._console.print(Text("passed: the stream can be reached", "bold green"))
        else:
            self._console.print(Text(f"stopped at {stopped_at}", "bold red"))

    def _row(self, mark: Text, name: Text, text: Text) -> None:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column()
        grid.add_column(min_width=max(map(len, STEPS)))
        grid.add_column(overflow="fold")
        grid.add_row(mark, name, text)
        self._console.print(grid)


class JsonReport:
    """A report that prints one JSON object at the end, and the log to stderr."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []

    def good(self, name: str, text: str) -> None:
        self._steps.append({"step": name, "passed": True, "text": text})

    def bad(self, name: str, trouble: Trouble) -> None:
        facts = {"text": trouble.text, "advice": trouble.advice}
        self._steps.append({"step": name, "passed": False, **facts})

    def event(self, topic: str, text: str) -> None:
        print(peer_text(text), file=sys.stderr, flush=True)

    def end(self, stopped_at: str | None) -> None:
        passed = stopped_at is None
        print(one_line({"passed": passed, "stopped_at": stopped_at, "steps": self._steps}))


def host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    secure = parts.scheme in ("wss", "https")
    return parts.hostname or "", parts.port or (443 if secure else 80)


def authorization(proxy: str) -> dict[str, str]:
    """Return the header with the user and password of a proxy (RFC 9110 section 11.7.2)."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}


def wait_for_alert(tls: ssl.SSLSocket) -> None:
    """
    Wait for an alert after the handshake.

    A TLS 1.3 server refuses a client certificate only then (RFC 8446 section 4.4.2.4).
    """
    if tls.version() == "TLSv1.3":
        tls.settimeout(ALERT_WAIT)
        with suppress(TimeoutError):
            try:
                ended = not tls.recv(1)
            except ConnectionError:
                ended = True
            if ended:
                raise hung_up_trouble()


def within(seconds: float, function: Any) -> Any:
    """Call *function* on a thread. Raises TimeoutError if it takes longer than *seconds*."""
    result: Future[Any] = Future()

    def work() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    Thread(target=work, daemon=True).start()
    return result.result(seconds)


def took(began: float) -> str:
    return f" ({milliseconds(time.monotonic() - began)})"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "under 1 ms"


def received(client: Client) -> str:
    count = client.stats().messages_received
    return f"; {count} message{'s' if count > 1 else ''} so far" if count else ""
