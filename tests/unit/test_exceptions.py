"""The tree of errors, what each one carries, and that they survive a trip between processes."""

from __future__ import annotations

import copy
import math
import pickle
import re
import ssl
from typing import Any

import pytest

from datastream_ws import (
    DataStreamError,
    HandlerError,
    HandshakeError,
    Message,
    Postponed,
    ReconnectError,
    StreamClosedError,
    UnauthorizedError,
    exceptions,
)
from datastream_ws.codecs import JsonCodec
from datastream_ws.exceptions import said
from datastream_ws.messages import Origin

LINE = re.compile(r"^(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+Error)(?: \((?P<also>\w+)\))?")


def drawn() -> dict[str, tuple[str, ...]]:
    """Read the tree in the module's docstring: class name → names of its bases."""
    bases: dict[str, tuple[str, ...]] = {}
    path: list[str] = []
    assert exceptions.__doc__
    _, tree = exceptions.__doc__.split("::", 1)
    for line in tree.split("*Reported*")[0].splitlines():
        if found := LINE.match(line.removeprefix("    ")):
            depth = len(found["branch"]) // 3
            path[depth:] = [found["name"]]
            base = path[depth - 1] if depth else "Exception"
            bases[found["name"]] = (base, found["also"]) if found["also"] else (base,)
    return bases


def test_docstring_draws_the_classes() -> None:
    """The tree that users read is the tree there is."""
    classes = [getattr(exceptions, name) for name in exceptions.__all__ if name != "Postponed"]
    assert drawn() == {c.__name__: tuple(base.__name__ for base in c.__bases__) for c in classes}


def test_tree_of_the_contract() -> None:
    """Names and built-in bases as the contract has them."""
    assert {name: also for name, (_, *also) in drawn().items() if also} == {
        "ConfigurationError": ["ValueError"],
        "SendTimeoutError": ["TimeoutError"],
        "DecodeError": ["ValueError"],
        "EncodeError": ["ValueError"],
    }
    assert set(drawn()) == {
        "DataStreamError",
        "ConfigurationError",
        "NotConnectedError",
        "SendTimeoutError",
        "HandshakeError",
        "UnauthorizedError",
        "StreamClosedError",
        "ReconnectError",
        "DecodeError",
        "EncodeError",
        "HandlerError",
        "InboxOverflowError",
        "SpoolError",
        "LeaseError",
    }


@pytest.mark.parametrize("name", drawn())
def test_each_has_a_docstring(name: str) -> None:
    """It says when the error comes."""
    assert getattr(exceptions, name).__doc__.strip()


def test_postponed_is_no_error() -> None:
    """`except DataStreamError` in a handler must not swallow it."""
    assert not issubclass(Postponed, DataStreamError)


@pytest.mark.parametrize(
    ("delay", "taken"),
    [(0, 0), (2.5, 2.5), (-1, 0), (math.nan, 0), (math.inf, 1e9), (1e300, 1e9)],
)
def test_postponed_for_a_time_that_can_be_waited_for(delay: float, taken: float) -> None:
    """What no lock can wait for would end the worker."""
    assert Postponed(delay).delay == taken


def test_postponed_for_a_second() -> None:
    """Unless told."""
    assert Postponed().delay == 1.0


def test_handshake_error() -> None:
    """The status and what the server asked for; neither, when there was no HTTP answer."""
    error = HandshakeError("refused", status=503, retry_after=7.0)
    assert (str(error), error.status, error.retry_after) == ("refused", 503, 7.0)
    assert (HandshakeError("no").status, HandshakeError("no").retry_after) == (None, None)
    assert UnauthorizedError("refused", status=401).status == 401


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1006,), "connection closed with code 1006"),
        ((1001, "going away"), "connection closed with code 1001: going away"),
        ((1008, "two\nlines"), r"connection closed with code 1008: two\nlines"),
        ((1009, "", "too large, see max_size"), "too large, see max_size"),
    ],
)
def test_stream_closed_error(arguments: tuple[Any, ...], text: str) -> None:
    """Code and reason; the peer's words escaped."""
    error = StreamClosedError(*arguments)
    assert (error.code, str(error)) == (arguments[0], text)
    assert "\n" not in error.reason


def test_reason_is_cut() -> None:
    """It is the peer's."""
    assert len(StreamClosedError(1000, "x" * 1000).reason) == 200


def test_reconnect_error() -> None:
    """How many attempts there were."""
    assert ReconnectError("gave up", attempts=3).attempts == 3


def made_message(seq: int) -> Message:
    return Message("{}", Origin("default", 1, 1, JsonCodec(), "type"), seq, 0.0)


def test_handler_error() -> None:
    """The message, or the first of a batch; the callable; none for a hook."""
    batch = (made_message(1), made_message(2))
    error = HandlerError("failed", handler=print, messages=batch)
    assert (error.message, error.messages, error.handler) == (batch[0], batch, print)
    assert HandlerError("failed", handler=print).message is None


ERRORS = [
    *[
        getattr(exceptions, name)("text")
        for name in drawn()
        if name not in ("ReconnectError", "HandlerError", "StreamClosedError")
    ],
    HandshakeError("refused", status=503, retry_after=7.0),
    UnauthorizedError("refused", status=401),
    StreamClosedError(1001, "going away"),
    StreamClosedError(1009, "", "too large"),
    ReconnectError("gave up", attempts=3),
    HandlerError("failed", handler=print),
    Postponed(3.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_travel(error: Exception) -> None:
    """Pickled, as pools, queues and result backends do, or copied: the same text and facts."""
    travelled = pickle.loads(pickle.dumps(error))
    for twin in (travelled, copy.copy(error)):
        assert type(twin) is type(error)
        assert (str(twin), vars(twin)) == (str(error), vars(error))


PROXY = ssl.SSLCertVerificationError(1, "the proxy's certificate: certificate verify failed")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ssl.SSLError(1, "[SSL: DECRYPTION_FAILED] decryption failed (_ssl.c:2576)"),
            "TLS failed: decryption failed",
        ),
        (ssl.SSLError(1, "[SSL] no start line (_ssl.c:4)"), "TLS failed: no start line"),
        (ssl.SSLError(), "TLS failed: SSLError"),
        (ssl.SSLError(1, "the server does not use TLS"), "the server does not use TLS"),
        (PROXY, "the proxy's certificate is not trusted: certificate verify failed"),
    ],
)
def test_errors_of_tls_are_in_words(error: ssl.SSLError, text: str) -> None:
    assert said(error) == text
