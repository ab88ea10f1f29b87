"""What is made of a server's answers: waits, origins, alerts, and the words for endings."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datastream_ws import ClientOptions, HandshakeError, UnauthorizedError
from datastream_ws.connection.answers import (
    ResponseHeaders,
    closed_by_peer,
    cut_by_peer,
    default_ssl_context,
    peer_fault,
    quiet_logger,
    retry_after_seconds,
    same_origin,
    status_error,
    tls_refusal,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


# --- Retry-After ---


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        (" 120 ", 120.0),
        ("300", 300.0),
        ("301", 300.0),
        ("9" * 18, 300.0),
        ("9" * 500, 300.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        ("Sun, 01 Mar 2026 12:00:45 GMT", 45.0),
        ("Sunday, 01-Mar-26 12:00:45 GMT", 45.0),  # RFC 850
        ("Sun Mar  1 12:00:45 2026", 45.0),  # asctime: GMT, too
        ("Sun, 01 Mar 2026 12:00:45 -0000", 45.0),
        ("Sun, 01 Mar 2026 13:00:45 +0100", 45.0),
        ("Sun, 01 Mar 2026 12:00:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),  # a digit, but not of HTTP
        ("²", None),
        ("2, 3", None),
        ("Sun, 99 Mar 2026 12:00:45 GMT", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Sun, 01 Mar 2026 12:00:45 +99999999", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds and HTTP dates, at most five minutes; what cannot be read is not there."""
    assert retry_after_seconds(value, NOW) == seconds


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
def test_retry_after_knows_no_local_time() -> None:
    """A date without a zone is GMT, wherever this machine stands."""
    assert retry_after_seconds("Sun Mar  1 12:00:45 2026", NOW) == 45.0


DATES = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Sun", "Sunday", "", "x"]),
    st.integers(-1, 40),
    st.sampled_from(["Jan", "Feb", "Dec", "13", ""]),
    st.integers(-1, 100_000),
    st.integers(-1, 30),
    st.integers(-1, 70),
    st.integers(-1, 70),
    st.sampled_from(["GMT", "+0100", "-0000", "+9999999", "-99", "Z", "", "XYZ"]),
)


@given(st.text() | st.text("0123456789 ,:-+GMTSunJa", max_size=40) | DATES)
@example("Mon, 01 Jan 0001 00:00:00 +0100")
@example("Fri, 31 Dec 9999 23:59:59 -0100")
@example("\x00")
def test_any_retry_after(value: str) -> None:
    """The header is the peer's: whatever it says, nothing is raised and no wait is endless."""
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or 0.0 <= seconds <= 300.0


# --- TLS and origins ---


def alert(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL] something")
    if reason is not None:
        error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (alert("SSLV3_ALERT_HANDSHAKE_FAILURE"), True),
        (alert("WRONG_VERSION_NUMBER"), False),
        (alert(None), False),
        (OSError(), False),
    ],
)
def test_which_errors_are_alerts(error: Exception, refuses: bool) -> None:
    assert (tls_refusal(error) is error) is refuses


def test_contexts() -> None:
    context = ssl.create_default_context()
    assert default_ssl_context(ClientOptions("wss://h/", ssl=context)) is context
    default = default_ssl_context(ClientOptions("wss://h/"))
    assert default is default_ssl_context(ClientOptions("wss://h/", ssl=True))
    assert default.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("ws://h:80/x", True),
        ("wss://h/", False),
        ("ws://h:81/", False),
        ("ws://other/", False),
        ("ws://a@h/", False),
        ("ws://h:port/", False),
    ],
)
def test_origins(url: str, same: bool) -> None:
    assert same_origin(url, "ws://h/") is same


# --- words ---


def test_headers_by_any_spelling_and_no_value_in_the_repr() -> None:
    headers = ResponseHeaders([("Set-Cookie", "s3cret=1"), ("X-A", "1"), ("set-cookie", "b=2")])
    assert headers["SET-COOKIE"] == "s3cret=1, b=2"
    assert sorted(headers) == ["set-cookie", "x-a"]
    assert len(headers) == 2
    assert "Nope" not in headers
    assert repr(headers) == "<headers: set-cookie, x-a>"


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, UnauthorizedError, "to the handshake with HTTP 401. Check the credentials"),
        (403, UnauthorizedError, "Check the credentials in headers or url."),
        (302, HandshakeError, "a redirect to another origin, which is not followed"),
        (503, HandshakeError, "to the handshake with HTTP 503"),
    ],
)
def test_a_status_in_words(status: int, kind: type, text: str) -> None:
    error = status_error(status, "7", NOW)
    assert type(error) is kind
    assert text in str(error)
    assert error.status == status
    assert error.retry_after == (None if kind is UnauthorizedError else 7.0)
    assert status_error(status, None, NOW).retry_after is None


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        (1002, "too many fragments", "in more than 4096 fragments (closed with 1002)"),
        (1009, "", "above max_size (closed with 1009). Raise the option max_size to accept it."),
        (1007, "", "not UTF-8 (closed with 1007)"),
        (1002, "reserved bits", "broke the WebSocket protocol: reserved bits (closed with 1002)"),
    ],
)
def test_a_fault_of_the_peer_says_what_to_change(code: int, reason: str, text: str) -> None:
    error = peer_fault(code, reason)
    assert error.code == code
    assert text in str(error)


def test_endings_in_words() -> None:
    cause = ConnectionResetError()
    cut = cut_by_peer(cause)
    assert (cut.code, cut.__cause__) == (1006, cause)
    assert "without a close frame" in str(cut)
    assert "is too big" in str(closed_by_peer(1009, "no"))
    assert closed_by_peer(4000, "bye").reason == "bye"


def test_the_library_logs_nothing() -> None:
    """Not even where the root logger takes everything."""
    assert not quiet_logger().isEnabledFor(logging.CRITICAL)
    assert quiet_logger() is quiet_logger()
