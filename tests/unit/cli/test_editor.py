"""Lines of stdin: typed key by key, and cut out of what a pipe delivers."""

from __future__ import annotations

import pytest

from datastream_ws.cli.editor import Cutter, Editor, Unsent

TOO_LONG = Unsent("a line is longer than 1 MiB")
NOT_UTF8 = Unsent("a line is not UTF-8")


def cut(*chunks: bytes, longest: int = 100) -> list[str | Unsent]:
    cutter = Cutter(longest)
    lines = [line for chunk in chunks for line in cutter.feed(chunk)]
    assert len(cutter._rest) <= longest
    was_ended = cutter.has_ended
    lines += cutter.feed(b"")
    assert (was_ended, cutter.has_ended) == (False, True)
    return lines


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b'{"a": 1}\nb\n'], ['{"a": 1}', "b"]),
        ([b"on", b"e\ntw", b"o"], ["one", "two"]),
        ([b"one\r\n\r\n\n  two \n"], ["one", "  two "]),
        (["grün".encode()[:3], "grün".encode()[3:]], ["grün"]),
        ([b"a\xff\nb\n"], [NOT_UTF8, "b"]),
        ([b"x" * 60, b"x" * 60, b"x\nb\n"], [TOO_LONG, "b"]),
        ([b"x" * 100 + b"\n" + b"x" * 101 + b"\nb"], ["x" * 100, TOO_LONG, "b"]),
        ([b"x" * 60, b"x" * 60], [TOO_LONG]),
        ([], []),
    ],
)
def test_what_a_pipe_delivers_is_cut_into_lines(
    chunks: list[bytes], lines: list[str | Unsent]
) -> None:
    assert cut(*chunks) == lines


@pytest.mark.parametrize(
    ("keys", "lines", "left"),
    [
        (b'{"a": 1}\rb', ['{"a": 1}'], "b"),
        (b"\r\n\n", [], ""),
        ("grün€".encode() + b"\x7f\x7f\x08n\n", ["grn"], ""),
        (b"\x7f\x7fa", [], "a"),
        (b"one two  \x17three\n", ["one three"], ""),
        (b"\x17one\x15two\n", ["two"], ""),
        (b"a\x1b[A\x1b[1;5Cb\x1bOPc\x1bd\x1b\n", ["abcd"], ""),
        (b"a\tb\x00\x0c\n", ["a\tb"], ""),
        ("\u202e\u200d\n".encode(), ["\u202e\u200d"], ""),
        (b"\xff\n", ["\ufffd"], ""),
    ],
)
def test_keys_make_lines(keys: bytes, lines: list[str], left: str) -> None:
    for size in (1, len(keys)):  # an escape sequence comes whole
        if size == 1 and b"\x1b" in keys:
            continue
        editor = Editor()
        chunks = [keys[n : n + size] for n in range(0, len(keys), size)]
        assert [line for chunk in chunks for line in editor.feed(chunk)] == lines
        assert editor.tail(10) == left
        assert not editor.has_ended


def test_ctrl_d_ends_an_empty_line_only() -> None:
    editor = Editor()
    assert editor.feed(b"a\x04b\n") == ["ab"]
    assert not editor.has_ended
    assert editor.feed(b"\x04") == []
    assert editor.has_ended


def test_no_half_of_a_line_that_is_too_long_is_sent() -> None:
    editor = Editor(longest=10)
    assert editor.feed(b"x" * 11 + b"\x7f\x7f\x17\n") == [TOO_LONG]
    assert editor.feed(b"x" * 500 + b"\x15" + b"y" * 10 + b"\n") == ["y" * 10]
    assert editor.feed("ü".encode() * 6) == []
    assert editor.tail(100) == "ü" * 5


def test_the_tail_is_what_was_typed_last() -> None:
    editor = Editor()
    editor.feed(b"0123456789")
    assert editor.tail(3) == "789"
