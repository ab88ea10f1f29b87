"""What may be shown of a URL and of a peer's text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws.redaction import peer_text, shown_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("wss://api.example.com", "wss://api.example.com"),
        ("wss://api.example.com/", "wss://api.example.com/"),
        ("wss://api.example.com:8443/a/b", "wss://api.example.com:8443/a/b"),
        (f"wss://api.example.com/a?token={SECRET}", "wss://api.example.com/a"),
        (f"wss://api.example.com?{SECRET}", "wss://api.example.com"),
        (f"wss://api.example.com/a#{SECRET}", "wss://api.example.com/a"),
        (f"wss://user:{SECRET}@api.example.com/a", "wss://api.example.com/a"),
        (f"http://{SECRET}@proxy:3128", "http://proxy:3128"),
        (f"socks5h://u:{SECRET}@[::1]:1080", "socks5h://[::1]:1080"),
        ("WSS://API.Example.com/A", "wss://api.example.com/A"),
        ("wss://bücher.example/", "wss://bücher.example/"),
        ("wss://api.example.com/\x1b[31m", r"wss://api.example.com/\x1b[31m"),
        (f"wss://{SECRET}:99999/", "(unreadable URL)"),
        (f"wss://[{SECRET}", "(unreadable URL)"),
        (f"user:{SECRET}@api.example.com", "(unreadable URL)"),
        (f"{SECRET}", "(unreadable URL)"),
        (f"//{SECRET}", "(unreadable URL)"),
        (f"wss:{SECRET}", "(unreadable URL)"),
        ("", "(unreadable URL)"),
    ],
)
def test_shown_url(url: str, shown: str) -> None:
    """Scheme, host, port and path; what is no such URL is not shown at all."""
    assert shown_url(url) == shown


@given(st.text(), st.text("abc", min_size=1))
def test_no_query_is_ever_shown(query: str, path: str) -> None:
    """Whatever is in it."""
    assert shown_url(f"wss://host/{path}?{query}") == f"wss://host/{path}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("going away", "going away"),
        ("", ""),
        ("ü – 😀", "ü – 😀"),
        ("two\r\nlines", r"two\r\nlines"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\0b", r"a\x00b"),
        ("left\u202eright", r"left\u202eright"),  # would show the rest backwards
        ("\ud800", r"\ud800"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
        ("\n" * 150, r"\n" * 99 + "\\…"),
        (ValueError("bad\n"), r"bad\n"),
        (b"\xff", r"b'\xff'"),
        (None, "None"),
    ],
)
def test_peer_text(text: object, shown: str) -> None:
    """One line, no control characters, at most 200 characters."""
    assert peer_text(text) == shown


@given(st.text() | st.text(min_size=190, max_size=1000))
def test_any_text(text: str) -> None:
    """Whatever a peer says, a log line stays a line, and can be encoded."""
    shown = peer_text(text)
    assert len(shown) <= 200
    assert shown.isprintable()
    assert shown.encode().decode() == shown


def test_objects_that_cannot_be_shown() -> None:
    """A user's exception may fail to say what it is; reporting it must not fail with it."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert peer_text(Broken()) == "(Broken)"


def test_long_texts_are_cut_before_they_are_escaped() -> None:
    """A megabyte from the peer costs no megabytes of work."""
    assert peer_text("\n" * 10_000_000).startswith(r"\n\n")
