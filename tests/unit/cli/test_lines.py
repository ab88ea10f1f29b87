"""JSON lines: each message one line that reads back as what was sent, harmless on a terminal."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws import Message
from datastream_ws.cli.lines import json_line
from datastream_ws.codecs import codec_for
from datastream_ws.messages import Origin

ORIGIN = Origin("default", 3, 1, codec_for("json"), "type")


def line_of(data: str | bytes) -> str:
    return json_line(Message(data, ORIGIN, 7, 1_700_000_000.25))


def no_control(line: str) -> bool:
    return not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029\u202e" for c in line)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('{"price": 1.10}', '{"price": 1.10}'),
        ("[1,\n\t2]\r\n", "[1,  2]"),
        ("12345678901234567890.000000000000000001", "12345678901234567890.000000000000000001"),
        ('"zw\x9b31m\u202e"', r'"zw\u009b31m\u202e"'),
        ("hello", '"hello"'),
        ("\x1b[2J", r'"\u001b[2J"'),
        ("NaN", '"NaN"'),
        ('{"a":Infinity}', r'"{\"a\":Infinity}"'),
        ("", '""'),
        ("[" * 100_000, json.dumps("[" * 100_000)),
    ],
)
def test_payload_as_it_came_where_it_is_json_else_a_string(data: str, line: str) -> None:
    head = '{"received_at":1700000000.25,"connection":3,"seq":7,'
    assert line_of(data) == f'{head}"data":{line}}}'


@given(st.text())
def test_any_text_reads_back(data: str) -> None:
    line = line_of(data)
    assert no_control(line)
    try:
        expected: Any = json.loads(data, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError):
        expected = data
    assert json.loads(line)["data"] == expected


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5), st.booleans())
def test_any_json_reads_back(obj: Any, ascii_only: bool) -> None:
    line = line_of(json.dumps(obj, ensure_ascii=ascii_only, indent=2))
    assert no_control(line)
    assert json.loads(line)["data"] == obj


@given(st.binary())
def test_any_binary_reads_back(data: bytes) -> None:
    found = json.loads(line_of(data))
    assert found["binary"] is True
    assert base64.b64decode(found["data"]) == data
