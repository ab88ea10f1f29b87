"""Recordings: in order whoever is first, readable whatever ended them."""

from __future__ import annotations

import json
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream_ws import ConfigurationError, DisconnectEvent, Message, StreamClosedError
from datastream_ws.cli.recording import Moment, Recorder, moments
from datastream_ws.codecs import codec_for
from datastream_ws.messages import Origin

HEAD = '{"recording":"datastream-ws","version":1}\n'


def message(data: str | bytes, connection: int = 1) -> Message:
    origin = Origin("default", connection, 1, codec_for("json"), "type")
    return Message(data, origin, 1, time.time())


def lost(connection: int, code: int = 1006, reason: str = "") -> DisconnectEvent:
    error = StreamClosedError(code, reason)
    return DisconnectEvent(connection, code, reason, error, will_retry=True, delay=1.0)


def told(path: Path) -> list[Any]:
    """What is in a recording, without the times."""
    return [
        m.data if m.data is not None else (m.event, m.code, m.reason) for m in moments(str(path))
    ]


@pytest.fixture
def path(tmp_path: Path) -> Any:
    return tmp_path / "recording.jsonl"


CONNECTED = ("connected", 1006, "")


def test_reads_back_what_was_recorded(path: Path) -> None:
    recorder = Recorder(str(path), "wss://api.example.com/stream")
    recorder.connected()
    recorder.write([message("a\n\x1b é \u2028"), message(b"\x00\xff")])
    recorder.disconnected(lost(1, 1012, "restarting"))
    recorder.connected()
    recorder.write([message('{"b":1}', connection=2)])
    recorder.close()
    recorder.close()
    end = ("disconnected", 1012, "restarting")
    assert told(path) == [CONNECTED, "a\n\x1b é \u2028", b"\x00\xff", end, CONNECTED, '{"b":1}']
    times = [moment.at for moment in moments(str(path))]
    assert times == sorted(times)
    assert recorder.messages == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text().splitlines()[0])["url"] == "wss://api.example.com/stream"


def test_messages_that_wait_longer_than_the_connection_lives_come_before_its_end(
    path: Path,
) -> None:
    recorder = Recorder(str(path), "")
    recorder.connected()
    recorder.disconnected(lost(1))
    recorder.connected()
    recorder.write([message("1"), message("2", connection=2)])
    recorder.close()
    assert told(path) == [CONNECTED, "1", ("disconnected", 1006, ""), CONNECTED, "2"]


def test_a_message_waits_for_word_of_its_connection(path: Path) -> None:
    recorder = Recorder(str(path), "")
    writer = threading.Thread(target=recorder.write, args=([message("1")],))
    writer.start()
    recorder.connected()
    writer.join(10)
    recorder.close()
    assert told(path) == [CONNECTED, "1"]


def test_our_own_goodbye_is_no_drop(path: Path) -> None:
    recorder = Recorder(str(path), "")
    recorder.connected()
    recorder.disconnected(DisconnectEvent(1, 1000, "", None, will_retry=False, delay=None))
    recorder.close()
    assert told(path) == [CONNECTED]


def test_nothing_is_overwritten(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match=r"already exists\. Remove it, or pass another"):
        Recorder(str(path), "")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_cut_last_line_is_left_out(path: Path, cut: int) -> None:
    whole = HEAD + '{"at":0.5,"text":"one"}\n{"at":1.0,"text":"a second one, some bytes long"}\n'
    path.write_text(whole[:-cut])
    assert list(moments(str(path))) == [Moment(0.5, "one")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "line 2 is not a valid line"),
        ("{}", "line 2 is not a valid line"),
        ('{"at":"x","text":"a"}', "line 2 is not a valid line"),
        ('{"at":-1,"text":"a"}', "line 2 is not a valid line"),
        ('{"at":NaN,"text":"a"}', "line 2 is not a valid line"),
        ('{"at":1,"binary":"%"}', "line 2 is not a valid line"),
        ('{"at":1,"event":"exploded"}', "line 2 is not a valid line"),
        ('{"at":1,"event":"disconnected","code":"x"}', "line 2 is not a valid line"),
        ("[" * 100_000, "line 2 is not a valid line"),
    ],
)
def test_a_line_that_is_none_is_named(path: Path, line: str, says: str) -> None:
    path.write_text(HEAD + line + "\n")
    with pytest.raises(ConfigurationError, match=says):
        list(moments(str(path)))


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("", "is not a recording"),
        ("root:x:0:0\n", "is not a recording"),
        ("[]\n", "is not a recording"),
        ('{"recording":"other","version":1}\n', "is not a recording"),
        ('{"recording":"datastream-ws","version":2}\n', "newer version. Upgrade"),
    ],
)
def test_what_is_no_recording(path: Path, head: str, says: str) -> None:
    path.write_text(head)
    with pytest.raises(ConfigurationError, match=says):
        list(moments(str(path)))


@given(st.lists(st.text() | st.binary(), max_size=5))
def test_any_payload_reads_back(tmp_path_factory: Any, payloads: list[str | bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "recording"
    recorder = Recorder(str(path), "")
    recorder.connected()
    recorder.write([message(data) for data in payloads])
    recorder.close()
    assert told(path)[1:] == payloads
