"""What log records carry besides their text; shown with a formatter that writes JSON."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from pythonjsonlogger.json import JsonFormatter

from datastream_ws import Client, Message
from datastream_ws.log_fields import EscapingFormatter, about, fields, write
from datastream_ws.testing import StreamServer
from kit.seen import eventually

SECRET = "hunter2"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OF_JSON = {"message", "exc_info"}


@pytest.fixture
def logged() -> Any:
    """A logger, and the records it has written as JSON."""
    file = io.StringIO()
    handler = logging.StreamHandler(file)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("of this test")
    logger.addHandler(handler)
    return logger, lambda: [json.loads(line) for line in file.getvalue().splitlines()]


def test_a_stream_s_life_as_records(logged: Any) -> None:
    logger, records = logged
    at_once = {"min_reconnect_delay": 0.01, "max_reconnect_delay": 0.01}
    options: dict[str, Any] = {**at_once, "max_reconnect_attempts": 2}
    with StreamServer(on_connect=lambda c: c.send("x")) as server:
        url = f"{server.url}/?token={SECRET}"
        client = Client(url, name="prices", logger=logger, **options)

        @client.on_message
        def handle(message: Message) -> None:
            raise ValueError(message.data)

        client.start()
        client.wait_ready(10)
        eventually(lambda: client.stats().messages_failed)
        server.refuse(503)
        server.close(1001)
        eventually(lambda: client.state.is_final)
        client.close()
    found = records()
    assert all(record["stream"] == "prices" for record in found)
    assert SECRET not in json.dumps(found)
    [waiting] = [r for r in found if r["state"] == "waiting"]
    assert waiting["attempt"] == 2
    assert waiting["delay"] == 0.01
    assert waiting["error"] == "StreamClosedError"
    assert waiting["connection"] == 1
    [failed] = [r for r in found if "handler" in r]
    assert failed["error"] == "ValueError"
    assert failed["handler"].endswith("handle")
    assert failed["seq"] == 1
    [gave_up] = [r for r in found if r["state"] == "failed"]
    assert gave_up["error"] == "HandshakeError"
    states = [r["state"] for r in found if r["message"].endswith(f": {r['state']}")]
    assert states == ["connected", "ready", "failed"]
    [first, second] = [r for r in found if "connecting to ws://" in r["message"]]
    assert (first["state"], second["state"]) == ("connecting", "connecting")


def test_a_logger_of_one_s_own_is_given_no_more_than_it_takes() -> None:
    lines: list[str] = []

    class Own:
        def debug(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...

        def info(self, msg: str, *args: Any, exc_info: Any = None) -> None:
            lines.append(msg % args)

        warning = error = info

    with StreamServer() as server, Client(server.url, logger=Own()) as client:
        client.wait_ready(10)
    assert "stream default: ready" in lines


def test_a_logger_that_raises_is_no_failure_of_who_logs() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError(record.getMessage())

    logger = logging.Logger("of this test")
    logger.addHandler(Broken())
    write(logger, "warning", "%s", "a line")
    write(logger, "error", "%s", "a line", exc_info=LookupError(), extra=fields("x"))


FORGED = "WARNING:root:the door is open"
ATTACK = f"x\n{FORGED}\r{FORGED}\x1b]0;title\x07\x1b[2J\x9b31m\u2028{FORGED}\x85{FORGED}"


@pytest.mark.parametrize("verb", ["handler", "logger", "cause"])
def test_a_formatter_that_no_text_of_a_server_deceives(verb: str) -> None:
    """Line breaks of any kind, ESC and OSC, in the text of a handler's exception or a record."""
    file = io.StringIO()
    handler = logging.StreamHandler(file)
    handler.setFormatter(EscapingFormatter("%(levelname)s:%(name)s:%(message)s"))
    logger = logging.Logger("ours")
    logger.addHandler(handler)
    with StreamServer(on_connect=lambda c: c.send(ATTACK)) as server:
        client = Client(server.url, logger=logger)

        @client.on_message
        def handle(message: Message) -> None:
            if verb == "logger":
                logger.warning("received %s", message.data)
            elif verb == "handler":
                raise ValueError(message.data)
            raise ValueError("no") from KeyError(message.data)

        with client:
            eventually(lambda: client.stats().messages_failed)
            eventually(lambda: "Traceback" in file.getvalue())
    lines = file.getvalue().split("\n")
    assert all(
        each.startswith(("| ", *(f"{level}:ours:" for level in LEVELS))) for each in lines[:-1]
    )
    assert all(character.isprintable() for line in lines for character in line)
    assert any(line.startswith("| Traceback") for line in lines)
    assert FORGED in file.getvalue()


def test_fields_are_escaped_and_known_ones_only() -> None:
    assert fields("a\x1b", state=None, delay=0.0) == {"stream": r"a\x1b", "delay": 0.0}
    assert about(None) == {}
    reserved = logging.LogRecord("", 0, "", 0, "", None, None).__dict__
    every = {"stream", "state", "connection", "attempt", "delay", "error", "seq", "handler"}
    assert every.isdisjoint({*reserved, *OF_JSON})
