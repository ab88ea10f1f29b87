"""What is tried again, after how long, and what ends the client with an error that says why."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
import trustme

from datastream_ws import (
    AsyncClient,
    Client,
    HandshakeError,
    ReconnectError,
    State,
    StateEvent,
    StreamClosedError,
    UnauthorizedError,
)
from datastream_ws.testing import StreamServer
from kit.rawserver import CLOSE, TEXT, Close, ExpectFrame, Frame, RawServer, Respond, Stall, Upgrade
from kit.seen import FAST, Seen, eventually

HURRY: dict[str, Any] = {"min_reconnect_delay": 0.02, "max_reconnect_delay": 0.1, "proxy": None}


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def failed(client: Client, timeout: float = 30.0) -> BaseException:
    """Start *client*, wait until it has failed, return why."""
    client.start()
    eventually(lambda: client.state is State.FAILED, timeout)
    assert client.error is not None
    client.close()
    assert client.state is State.FAILED
    return client.error


# --- 401 and 403 ------------------------------------------------------------------------------


@pytest.mark.fault("31", "G20", "P8")
@pytest.mark.parametrize("status", [401, 403])
def test_unauthorized_with_a_mapping_is_tried_once(status: int) -> None:
    """The same credentials would be refused again: one attempt, then FAILED."""
    with StreamServer() as server:
        server.refuse(status)
        error = failed(Client(server.url, headers={"Authorization": "x"}, **HURRY))
        assert len(server.attempts) == 1
    assert isinstance(error, UnauthorizedError)
    assert error.status == status


@pytest.mark.fault("31", "P19")
@pytest.mark.parametrize("option", ["headers", "url"])
def test_unauthorized_with_a_callable_is_tried_twice(option: str) -> None:
    """Headers or a URL that are made for each attempt get one more, with fresh credentials."""
    made = Seen[int]()

    def fresh() -> Any:
        made(1)
        return server.url if option == "url" else {"Authorization": f"token {len(made)}"}

    with StreamServer() as server:
        server.refuse(401)
        url = fresh if option == "url" else server.url
        headers: Any = fresh if option == "headers" else {}
        error = failed(Client(url, headers=headers, **HURRY))
        assert len(server.attempts) == len(made) == 2
    assert isinstance(error, UnauthorizedError)


@pytest.mark.fault("P19")
def test_fresh_credentials_are_used() -> None:
    """Each time a token has run out, the next one that the coroutine function returns is used."""
    tokens = iter(["stale", "first", "stale", "second"])

    async def headers() -> dict[str, str]:
        return {"Authorization": next(tokens)}

    with StreamServer() as server:
        server.refuse(401, times=1)
        with Client(server.url, headers=headers, **HURRY) as client:
            client.wait_ready(30)
            server.refuse(401, times=1)
            server.abort()
            server.wait_connected(2, 30)
            client.wait_ready(30)
        sent = [connection.headers["Authorization"] for connection in server.connections]
    assert sent == ["first", "second"]


# --- Retry-After ------------------------------------------------------------------------------


def in_two_seconds() -> str:
    return formatdate(time.time() + 3, usegmt=True)  # whole seconds: 2 to 3 from now


@pytest.mark.fault("33", "34", "G20", "T3")
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after(status: int, form: str) -> None:
    """Retry-After: 2 with min_reconnect_delay=0.2: the next attempt 2 to 3.5 s later."""
    with StreamServer() as server:
        value = "2" if form == "seconds" else in_two_seconds()
        server.refuse(status, {"Retry-After": value}, times=1)
        with Client(server.url, min_reconnect_delay=0.2, proxy=None) as client:
            client.wait_ready(30)
            first, second = (attempt.at for attempt in server.attempts)
    if form == "seconds":
        assert 2.0 <= second - first <= 3.5
    else:
        assert 1.9 <= second - first <= 4.5


@pytest.mark.fault("33", "34")
def test_retry_after_is_never_obeyed_for_more_than_five_minutes() -> None:
    """A server that says "next year" delays the stream by 5 minutes and a quarter at most."""
    states = Seen[StateEvent]()
    with StreamServer() as server:
        server.refuse(503, {"Retry-After": "31536000"})
        client = Client(server.url, **HURRY)
        client.on_state(states)
        with client:
            waiting = states.wait_for(lambda event: event.state is State.WAITING)
    assert waiting.delay is not None
    assert 300 <= waiting.delay <= 375


# --- attempts ---------------------------------------------------------------------------------


@pytest.mark.fault("10")
def test_three_attempts_against_a_closed_port(closed_port: int) -> None:
    """max_reconnect_attempts=3: three dials, FAILED, ReconnectError(attempts=3)."""
    states = Seen[StateEvent]()
    client = Client(f"ws://127.0.0.1:{closed_port}", max_reconnect_attempts=3, **HURRY)
    client.on_state(states)
    error = failed(client)
    assert isinstance(error, ReconnectError)
    assert error.attempts == 3
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert client.stats().attempts == 3
    dials = [event for event in states.all if event.state is State.CONNECTING]
    assert len(dials) == 3
    assert states.all[-1].state is State.FAILED
    assert states.all[-1].error is error


@pytest.mark.fault("P14")
def test_run_raises_the_error_of_a_failed_client(closed_port: int) -> None:
    """run(), wait_ready() and wait_closed() raise why the client failed."""
    client = Client(f"ws://127.0.0.1:{closed_port}", max_reconnect_attempts=3, **HURRY)
    with pytest.raises(ReconnectError) as raised:
        client.run()
    assert raised.value is client.error
    with pytest.raises(ReconnectError):
        client.wait_ready(30)
    with pytest.raises(ReconnectError):
        client.wait_closed(30)


async def test_run_of_an_async_client_raises_too(closed_port: int) -> None:
    """The coroutines run(), wait_ready() and wait_closed() raise it as well."""
    client = AsyncClient(f"ws://127.0.0.1:{closed_port}", max_reconnect_attempts=2, **HURRY)
    with pytest.raises(ReconnectError):
        await client.run()
    with pytest.raises(ReconnectError):
        await client.wait_ready(30)
    with pytest.raises(ReconnectError):
        await client.wait_closed(30)


def test_errors_ends_when_the_client_has_failed(closed_port: int) -> None:
    """errors() gives each failed attempt, and then the loop over it ends."""
    client = Client(f"ws://127.0.0.1:{closed_port}", max_reconnect_attempts=3, **HURRY)
    read: list[BaseException] = []
    reader = threading.Thread(target=lambda: read.extend(client.errors()))
    client.start()
    reader.start()
    reader.join(30)
    assert not reader.is_alive()
    client.close()
    assert [type(error) for error in read] == [ConnectionRefusedError] * 3


async def test_errors_of_an_async_client_ends_too(closed_port: int) -> None:
    """The asynchronous iterator ends as well."""
    client = AsyncClient(f"ws://127.0.0.1:{closed_port}", max_reconnect_attempts=3, **HURRY)
    await client.start()
    assert len([error async for error in client.errors()]) == 3


def test_start_after_it_failed_begins_anew(closed_port: int) -> None:
    """A failed client may be started again, with all its attempts and no old error."""
    with StreamServer() as server:
        url = f"ws://127.0.0.1:{closed_port}"
        client = Client(lambda: url, max_reconnect_attempts=2, **HURRY)
        failed(client)
        url = server.url
        with client:
            client.wait_ready(30)
            assert client.error is None
            assert client.stats().attempts == 1


@pytest.mark.fault("32")
def test_fatal_delay_keeps_trying_at_its_pace() -> None:
    """With fatal_delay a fatal error is shown, not final: the client comes back by itself."""
    states = Seen[StateEvent]()
    with StreamServer() as server:
        server.refuse(404)
        client = Client(server.url, fatal_delay=0.2, **HURRY)
        client.on_state(states)
        with client:
            server.wait_attempts(3, 30)
            error = client.error
            assert isinstance(error, HandshakeError)
            assert error.status == 404
            server.accept()
            client.wait_ready(30)
            assert client.error is None
        delays = [event.delay for event in states.all if event.state is State.WAITING]
        assert all(delay is not None and 0.1 <= delay <= 0.3 for delay in delays)
    assert State.FAILED not in [event.state for event in states.all]


def test_fatal_delay_after_the_last_attempt(closed_port: int) -> None:
    """Exhausted attempts count as a fatal error: the slow pace follows, the error stays visible."""
    states = Seen[StateEvent]()
    client = Client(
        f"ws://127.0.0.1:{closed_port}", max_reconnect_attempts=2, fatal_delay=0.2, **HURRY
    )
    client.on_state(states)
    with client:
        eventually(lambda: client.stats().attempts >= 5)
        assert isinstance(client.error, ReconnectError)
        waits = [event.delay for event in states.all if event.state is State.WAITING]
        assert waits[0] is not None
        assert waits[0] < 0.1
        assert all(delay is not None and 0.1 <= delay <= 0.3 for delay in waits[1:])


# --- verdicts ---------------------------------------------------------------------------------

FATAL_CODES = [1008, 3000, 3500, 3999, 4001, 4003, 4401, 4403, 4500, 4999]
RETRIED_CODES = [1000, 1001, 1011, 1014, 3001, 3499, 4000, 4002, 4404, 4499]


@pytest.mark.fault("56", "P19")
@pytest.mark.parametrize("code", FATAL_CODES)
def test_fatal_close_codes(code: int) -> None:
    """Before READY these codes say that coming back is of no use, whatever the login raises."""
    with StreamServer(on_connect=lambda connection: connection.close(code, "go away")) as server:
        client = Client(server.url, **HURRY)
        client.on_connect(lambda: client.receive(timeout=30))
        error = failed(client)
        assert len(server.connections) == 1
    assert isinstance(error, StreamClosedError)
    assert (error.code, error.reason) == (code, "go away")


@pytest.mark.parametrize("code", [1008, 4001])
def test_fatal_close_codes_come_twice_once_ready(code: int) -> None:
    """A server that restarts may close with any code: the next connection tells."""
    with StreamServer() as server:
        client = Client(server.url, **HURRY)
        client.start()
        for number in (1, 2):
            server.wait_connected(number, 30)
            client.wait_ready(30)
            server.close(code, "go away")
        with pytest.raises(StreamClosedError, match="go away"):
            client.wait_closed(30)
        assert len(server.connections) == 2


@pytest.mark.fault("52", "53", "G1")
@pytest.mark.parametrize("code", RETRIED_CODES)
def test_retried_close_codes(code: int) -> None:
    """All other codes end one connection only."""
    with StreamServer() as server, Client(server.url, **HURRY) as client:
        client.wait_ready(30)
        server.close(code)
        server.wait_connected(2, 30)
        client.wait_ready(30)


@pytest.mark.fault("54", "55")
@pytest.mark.parametrize(("code", "least", "most"), [(1012, 5.0, 30.0), (1013, 10.0, 30.0)])
def test_patient_close_codes(code: int, least: float, most: float) -> None:
    """1012 and 1013 ask for patience: at least 5 and 10 s, within max_reconnect_delay."""
    states = Seen[StateEvent]()
    with StreamServer() as server:
        client = Client(server.url, proxy=None)
        client.on_state(states)
        with client:
            client.wait_ready(30)
            server.close(code)
            waiting = states.wait_for(lambda event: event.state is State.WAITING)
    assert waiting.delay is not None
    assert least <= waiting.delay <= most


@pytest.mark.fault("32", "G20")
@pytest.mark.parametrize("status", [400, 404, 410, 426])
def test_fatal_http_statuses(status: int) -> None:
    """Answers that will not change end the client at the first attempt."""
    with StreamServer() as server:
        server.refuse(status)
        error = failed(Client(server.url, **HURRY))
        assert len(server.attempts) == 1
    assert isinstance(error, HandshakeError)
    assert error.status == status


@pytest.mark.fault("16", "35", "G20", "T3")
@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_retried_http_statuses(status: int) -> None:
    """Answers that may change are followed by another attempt."""
    with StreamServer() as server:
        server.refuse(status, times=2)
        with Client(server.url, **HURRY) as client:
            client.wait_ready(30)
            assert client.stats().attempts == 3


@pytest.mark.fault("36", "T4", "T5")
def test_redirects() -> None:
    """One within the origin is followed anew each time; one to another origin is fatal."""
    with StreamServer() as server, StreamServer() as other:
        server.refuse(302, {"Location": "/moved"}, times=1)
        with Client(server.url + "/first", **HURRY) as client:
            client.wait_ready(30)
            assert server.wait_connected(1, 30)[0].path == "/moved"
            server.abort()
            assert server.wait_connected(2, 30)[1].path == "/first"
        server.refuse(302, {"Location": other.url})
        error = failed(Client(server.url, headers={"Authorization": "x"}, **HURRY))
        assert isinstance(error, HandshakeError)
        assert other.attempts == []


@pytest.mark.fault("20")
def test_tls_verification_is_fatal() -> None:
    """A certificate nobody vouches for ends the client; with its authority it is ready."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with StreamServer(ssl=context) as server:
        error = failed(Client(server.url, **HURRY))
        assert isinstance(error, ssl.SSLCertVerificationError)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        with Client(server.url, ssl=trusting, **HURRY) as client:
            client.wait_ready(30)


@pytest.mark.fault("37")
def test_wrong_accept_header_is_fatal() -> None:
    """A peer that does not speak WebSocket is not asked twice."""
    with RawServer([Upgrade(accept="bm9wZQ==")]) as server:
        error = failed(Client(server.url, **HURRY))
        assert isinstance(error, HandshakeError)
        assert len(server.connections) == 1


@pytest.mark.fault("38")
def test_garbage_instead_of_http_is_retried() -> None:
    """A port that answers something else may be a deploy in progress: attempts are counted."""
    with (
        RawServer([Respond(200, body=b"hello")], [Upgrade(), ExpectFrame(CLOSE)]) as server,
        Client(server.url, **HURRY) as client,
    ):
        client.wait_ready(30)
        assert client.stats().attempts == 2


@pytest.mark.fault("45", "47", "G24", "P7")
@pytest.mark.parametrize(
    ("frame", "code", "cure"),
    [
        (Frame(TEXT, "x" * 2000), 1009, "max_size"),
        (Frame(TEXT, b"\xff\xfe"), 1007, "UTF-8"),
        (Frame(TEXT, "x", masked=True), 1002, "protocol"),
    ],
)
def test_the_peers_faults_are_retried_and_counted(frame: Frame, code: int, cure: str) -> None:
    """Our own 1002, 1007 and 1009: attempts are counted, the error says what to change."""
    with RawServer([Upgrade(), frame, ExpectFrame(CLOSE)]) as server:
        client = Client(
            server.url, max_size=1000, max_reconnect_attempts=3, stable_after=1e-6, **HURRY
        )
        error = failed(client)
        assert isinstance(error, ReconnectError)
        assert error.attempts == len(server.connections) == 3
        assert server.connections[0].frames[-1].close_code == code
    last = error.__cause__
    assert isinstance(last, StreamClosedError)
    assert last.code == code
    assert cure in str(last)


@pytest.mark.parametrize(
    ("decide", "retried"), [(lambda error: True, True), (lambda error: False, False)]
)
def test_retry_decides_first(decide: Callable[[BaseException], bool], retried: bool) -> None:
    """The option retry turns a fatal error into a retried one, and the other way about."""
    with StreamServer() as server:
        server.refuse(404 if retried else 503, times=1)
        client = Client(server.url, retry=decide, **HURRY)
        if retried:
            with client:
                client.wait_ready(30)
        else:
            assert isinstance(failed(client), HandshakeError)


def test_retry_that_raises_is_reported_and_decides_nothing() -> None:
    """A bug in the user's callable does not end the stream."""
    errors = Seen[BaseException]()
    with StreamServer() as server:
        server.refuse(503, times=1)
        client = Client(server.url, retry=lambda error: bool(1 / 0), **HURRY)
        client.on_error(errors)
        with client:
            client.wait_ready(30)
        errors.wait_for(lambda error: isinstance(error, ZeroDivisionError))


@pytest.mark.fault("P8")
def test_url_callable_that_returns_nonsense_is_fatal() -> None:
    """What a callable returns is checked as the option itself is."""
    error = failed(Client(lambda: "http://example.com/secret", **HURRY))
    assert "url" in str(error)
    assert "secret" not in str(error)


def test_url_callable_that_raises_is_retried() -> None:
    """A service discovery that is down for a moment is a failed attempt like any other."""
    with StreamServer() as server:
        problems: list[Exception] = [KeyError("not yet"), OSError("not yet")]

        def url() -> str:
            if problems:
                raise problems.pop()
            return server.url

        with Client(url, **HURRY) as client:
            client.wait_ready(30)
            assert client.stats().attempts == 3


@pytest.mark.fault("5", "42")
def test_open_timeout() -> None:
    """A server that accepts and never answers costs open_timeout, and counts as an attempt."""
    with RawServer([Stall()]) as server:
        client = Client(server.url, open_timeout=0.2, max_reconnect_attempts=2, **HURRY)
        error = failed(client)
        assert isinstance(error.__cause__, TimeoutError)
        assert len(server.connections) == 2


def test_peer_text_is_escaped_and_cut() -> None:
    """A reason with control characters cannot forge a log line."""
    reason = "no\r\n\x1b[31mfake"
    with RawServer([Upgrade(), Close(4001, reason)]) as server:
        error = failed(Client(server.url, **FAST))
    assert isinstance(error, StreamClosedError)
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
