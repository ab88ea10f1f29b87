"""What a terminal shows: escaped, cut, and in one line however narrow it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group
from rich.text import Text

from datastream_ws import Message, State, Stats
from datastream_ws.cli.screen import Rate, duration, message_text, prompt_text, status_text
from datastream_ws.codecs import codec_for
from datastream_ws.messages import Origin

ORIGIN = Origin("default", 1, 1, codec_for("json"), "type")
WHERE = "wss://api.example.com/stream"


def shown(data: str | bytes) -> str:
    """The line of a message, without the time."""
    return message_text(Message(data, ORIGIN, 1, 0.0)).plain.partition("  ")[2]


def rendered(text: Text, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None).print(
        Group(text)  # as Live has it: print() joins texts of its own
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('{"type":"price","p":1}', 'price  {"type":"price","p":1}'),
        ("a\nb\x1b[2J\x9b\u202e\r", r"a\nb\x1b[2J\x9b\u202e\r"),
        ('{"type":"\\u001b]0;x\\u0007"}', '\\x1b]0;x\\x07  {"type":"\\u001b]0;x\\u0007"}'),
        ("[bold]no markup[/bold] :smile:", "[bold]no markup[/bold] :smile:"),
        ("x" * 600, "x" * 500 + "… (600 characters)"),
        (b"\x00\xff", "2 bytes: 00 ff"),
        (b"\x01", "1 byte: 01"),
        (b"\x01" * 2000, "2,000 bytes: " + " ".join(["01"] * 24) + " …"),
    ],
)
def test_messages(data: str | bytes, line: str) -> None:
    assert shown(data) == line


def test_status_of_a_ready_stream() -> None:
    stats = Stats(messages_received=1234, reconnects=2, messages_waiting=7, round_trip_time=0.012)
    line = status_text(WHERE, State.READY, stats, rate=56.4).plain
    want = "● ready · 1,234 messages · 56/s · 2 reconnects · 7 behind · 12 ms · " + WHERE
    assert line == want


def test_status_while_waiting_counts_down() -> None:
    line = status_text(WHERE, State.WAITING, Stats(reconnects=1, round_trip_time=1.0), left=3.4)
    assert line.plain == f"● next attempt in 3 s · 0 messages · 1 reconnect · {WHERE}"


@pytest.mark.parametrize("width", [10, 25, 40, 79, 200])
def test_status_is_one_line_however_narrow(width: int) -> None:
    stats = Stats(messages_received=123_456, reconnects=12)
    line = rendered(status_text(WHERE, State.READY, stats, rate=9.0), width)
    assert line.count("\n") == 1
    assert line.startswith("● ready"[: width - 1])


def test_rate_is_that_of_the_last_two_seconds() -> None:
    rate = Rate()
    assert rate.of(100, 0.0) == 0.0
    assert rate.of(150, 1.0) == 50.0
    assert rate.of(150, 5.0) == 0.0
    assert rate.of(160, 6.0) == 10.0
    assert rate.of(0, 6.5) == 0.0  # a client that was started anew counts from 0


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.9, 61, 3725)] == ["0 s", "59 s", "1:01", "1:02:05"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("", "> Type a line and press Enter to send it"),
        ("hello", "> hello "),
        ("x\x1b[2J", "> x\\x1b[2J "),
        ("0123456789" * 9, "> …" + ("0123456789" * 9)[-36:] + " "),
        ("x" * 37, "> " + "x" * 37 + " "),
        ("x" * 38, "> …" + "x" * 36 + " "),
        ("漢" * 40, "> …" + "漢" * 18 + " "),
    ],
)
def test_what_is_typed_is_one_line_that_shows_its_end(typed: str, line: str) -> None:
    prompt = prompt_text(typed, 40)
    assert prompt.plain == line
    assert rendered(prompt, 40).rstrip("\n") == line
