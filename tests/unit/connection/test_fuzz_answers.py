"""
Whatever a server answers to the handshake: an error of ours, in words that may be shown.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st

from datastream_ws import HandshakeError, UnauthorizedError
from datastream_ws.connection.answers import retry_after_seconds
from datastream_ws.exceptions import said
from kit.wire import Wire


def answered(*reads: bytes) -> HandshakeError | None:
    """Return what open() raises; ``None``: nothing. Anything but a HandshakeError goes through."""
    error: HandshakeError | None = None
    try:
        with Wire() as wire:
            wire.answer(*reads)
    except HandshakeError as refused:
        error = refused
    assert wire.escaped == []
    assert said(error).isprintable()
    assert len(said(error)) <= 200
    return error


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    ends = list(itertools.accumulate(sizes, initial=0))
    return [data[a:b] for a, b in itertools.pairwise([*ends, len(data)]) if a < len(data)]


sizes = st.lists(st.integers(1, 40), max_size=4)
latin = st.text(st.characters(max_codepoint=255), max_size=20)
printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
names = st.sampled_from(
    [
        *("Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"),
        *("Sec-WebSocket-Extensions", "Location", "Retry-After", "Server", "Set-Cookie"),
    ]
)
values = printable | st.sampled_from(
    [
        *("websocket", "Upgrade", "permessage-deflate", "x, y", "0", "7"),
        *(f"permessage-deflate; {each}" for each in ("server_max_window_bits", "=", "x=8")),
        *("/", "ws://192.0.2.1/ä", "ws://[", "ws://192.0.2.1:99999/", "//", "wss://192.0.2.1/"),
        "Sun, 06 Nov 1994 08:49:37 GMT",
    ]
)
# Of an upgrade that breaks several rules either may be named.
REDIRECTS = (300, 301, 302, 303, 307, 308)
statuses = st.integers(100, 599).filter(lambda status: status != 101)
headers = st.lists(st.tuples(names, values), max_size=4, unique_by=lambda header: header[0])


def head(status: str, lines: list[tuple[str, str]]) -> bytes:
    return "\r\n".join(
        [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in lines), "", ""]
    ).encode()


@given(data=st.binary(max_size=200), sizes=sizes)
def test_noise_is_no_answer(data: bytes, sizes: list[int]) -> None:
    assert answered(*cut(data, sizes)) is not None


@given(status=latin, lines=st.lists(st.tuples(names | latin, latin), max_size=4), sizes=sizes)
def test_odd_answers(status: str, lines: list[tuple[str, str]], sizes: list[int]) -> None:
    """Any status line, any headers: an error of ours."""
    data = head(status, lines).decode().encode("latin-1")
    assert answered(*cut(data, sizes)) is not None


@given(status=statuses, lines=headers, body=st.binary(max_size=50), sizes=sizes)
@example(status=499, lines=[], body=b"", sizes=[])
@example(status=401, lines=[("Retry-After", "0")], body=b"", sizes=[])
@example(status=529, lines=[("Retry-After", "7")], body=b"", sizes=[])
@example(status=302, lines=[("Location", "ws://192.0.2.1/ä")], body=b"", sizes=[])
@settings(max_examples=100)
def test_an_answer_means_what_it_says(
    status: int, lines: list[tuple[str, str]], body: bytes, sizes: list[int]
) -> None:
    """Its status and its Retry-After; a redirect that was followed ends without one."""
    data = head(f"{status} Whatever", lines) + body
    error = answered(*cut(data, sizes))
    assert error is not None
    given = dict(lines)
    followed = status in REDIRECTS and "Location" in given and error.status is None
    wait = given.get("Retry-After", "")
    is_final = followed or status in (401, 403)  # a wait would not help without other credentials
    seconds = None if is_final else retry_after_seconds(wait, datetime.now(UTC))
    assert (error.status, error.retry_after) == (None if followed else status, seconds)
    assert isinstance(error, UnauthorizedError) is (status in (401, 403))


extensions = (
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(["permessage-deflate", ";", "=", " ", ",", '"', "8", "15", "٣"])
    ).map("".join)
    | st.lists(
        st.sampled_from(
            ["server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits=9"]
        )
    ).map(lambda parts: "; ".join(["permessage-deflate", *parts]))
)


@given(answer=extensions.filter(lambda text: text.isprintable()))
def test_an_extension_that_nobody_asked_for_ends_the_handshake(answer: str) -> None:
    """It opens, or says which rule was broken; both are final, neither is an accident."""
    line = f"Sec-WebSocket-Extensions: {answer}".encode().decode("latin-1")
    status: int | None = 101
    try:
        with Wire() as wire:
            wire.open(headers=[line])
    except HandshakeError as error:
        status = error.status
    assert status in (101, None)
    assert wire.escaped == []


origins = st.sampled_from(
    [
        *("", "/", "//192.0.2.1", "ws://192.0.2.1", "ws://192.0.2.1:80", "ws://user:pw@192.0.2.1"),
        *("WS://192.0.2.1", "wss://192.0.2.1", "ws://192.0.2.2", "//192.0.2.2", "http://192.0.2.1"),
        *("//u@192.0.2.1", "ws://192.0.2.1@192.0.2.2", "\\\\192.0.2.2", "ws:192.0.2.2", "ws:///x"),
    ]
)


@given(status=st.sampled_from(REDIRECTS), origin=origins, rest=printable | latin)
def test_no_redirect_leads_elsewhere_or_names_a_user(status: int, origin: str, rest: str) -> None:
    """Whatever Location says: only the origin is dialled, at most six times, as nobody else."""
    location = f"Location: {origin}{rest}".encode("latin-1").replace(b"\r", b"").replace(b"\n", b"")
    answer = f"HTTP/1.1 {status} Moved\r\n".encode() + location + b"\r\n\r\n"
    with Wire() as wire:
        opening = wire.begin()
        for _ in range(20):
            if opening.done():
                break
            assert b"\r\nauthorization:" not in wire.request.lower()
            wire.feed(answer)
            wire.end()
            wire._await_request()
        assert opening.done()
        assert isinstance(opening.exception(), HandshakeError)
    assert set(wire.addresses) == {("192.0.2.1", 80)}
    assert len(wire.addresses) <= 6
    assert wire.escaped == []
