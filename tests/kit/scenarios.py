"""
A table of server behaviors and expected results, for the core and every runner.

A row is independent of the client's process. ``kit.witness`` registers the handlers there, and
``kit.stage`` runs the server and verifies the results. Messages are commands to the handler.
``raise`` and ``exit`` raise an exception, and ``hold`` waits for the end.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .rawserver import (
    BINARY,
    CLOSE,
    CONTINUATION,
    TEXT,
    Close,
    Converse,
    Drain,
    ExpectFrame,
    Fin,
    Frame,
    Respond,
    Rst,
    Script,
    Send,
    Upgrade,
)

__all__ = ["DEFLATE", "SCENARIOS", "Scenario", "Span", "bomb"]

Span = tuple[float, float]  # least, most

DEFAULTS: Mapping[str, Any] = {
    "min_reconnect_delay": 0.02,
    "max_reconnect_delay": 0.1,
    "max_reconnect_attempts": None,
    "close_timeout": 5.0,
    "proxy": None,
}


@dataclass(frozen=True)
class Scenario:
    """
    A row of the table.

    Attributes:
        name: The name of the scenario, which is also that of the stream.
        faults: Ids in kit/faultbook.py.
        scripts: The script of each connection. The last one repeats.
        options: Options of the client, in addition to DEFAULTS.
        away: The number of attempts that are refused before the server listens.
        ready_fails: The number of calls of ``on_ready`` that raise an exception.
        handled: The messages that were handled, in order.
        failed: The number of messages that failed.
        connections: The least and the most connections.
        seconds: The duration of the scenario. ``None`` ends it when all results are there.
        ends: The close codes in ``on_disconnect`` before the client was stopped. ``None`` accepts
            any.
        answers: The close codes that the server received, in order. ``None`` accepts any.
        error: The type of the first reported error, and a part of its text. ``None`` accepts any.
        waits: The bounds of the first reported delays, in seconds.
        given_up: The seconds after which the client ends the first connection. ``None`` accepts
            any.
        is_fatal: Whether the error is fatal, which means FAILED, or waiting for ``fatal_delay``.

    """

    name: str
    faults: tuple[str, ...]
    scripts: tuple[Script, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    away: int = 0
    ready_fails: int = 0
    handled: tuple[str, ...] = ()
    failed: int = 0
    connections: Span = (2, 2)
    seconds: float | None = None
    ends: tuple[int, ...] | None = None
    answers: tuple[int, ...] | None = None
    error: tuple[str, str] | None = None
    waits: tuple[Span, ...] = ()
    given_up: float | None = None
    is_fatal: bool = False

    @property
    def client_options(self) -> dict[str, Any]:
        """The client's options, with values that JSON has."""
        return {**DEFAULTS, **self.options}


def texts(*words: str) -> list[Any]:
    return [Frame(TEXT, word) for word in words]


def stay(*words: str) -> Script:
    """Return a script that accepts, sends *words* and then behaves correctly."""
    return [Upgrade(), *texts(*words), Converse()]


def refused(name: str, fault: str, answer: Script, **expected: Any) -> Scenario:
    """Return a scenario in which the client retries after *answer* and is accepted."""
    given = {"handled": ("good",), "error": ("", ""), **expected}
    return Scenario(name, (fault,), (answer, stay("good")), **given)


def final(name: str, fault: str, answer: Script, error: tuple[str, str], **more: Any) -> Scenario:
    """Return a scenario in which *answer* is a fatal error."""
    scripts = (answer, stay("never"))
    return Scenario(name, (fault,), scripts, connections=(1, 1), error=error, is_fatal=True, **more)


def broken(name: str, fault: str, code: int, *frames: Any, **more: Any) -> Scenario:
    """Return a scenario in which the client closes with *code* because of invalid *frames*."""
    bad = [Upgrade(), Frame(TEXT, "good"), *frames, ExpectFrame(CLOSE), Drain()]
    given: dict[str, Any] = {"options": {"close_timeout": 0.3}, "answers": (code, 1000), **more}
    return Scenario(
        name, (fault,), (bad, stay("next")), handled=("good", "next"), ends=(code,), **given
    )


def ended(name: str, fault: str, code: int, *steps: Any, **more: Any) -> Scenario:
    """Return a scenario in which a connection ends after two messages, and the next follows."""
    scripts = ([Upgrade(), *texts("one", "two"), *steps], stay("three"))
    given: dict[str, Any] = {"handled": ("one", "two", "three"), "ends": (code,), **more}
    return Scenario(name, (fault,), scripts, **given)


SLOW_DELAYS = {"min_reconnect_delay": 1.0, "max_reconnect_delay": 30.0}
# A thirtieth of the default delays, so that one second shows what happens in 30.
THIRTIETH = {"min_reconnect_delay": 1 / 30, "max_reconnect_delay": 1.0, "stable_after": 1 / 3}
DEFLATE = Upgrade(["Sec-WebSocket-Extensions: permessage-deflate"])
TEN = tuple(str(n) for n in range(10))
LIMIT = 1.0  # seconds of pong_timeout
# Several pings fit into the limit, because a busy server may be late with one.
IMPATIENT = {"pong_timeout": LIMIT, "ping_interval": 0.2, "close_timeout": 0.3}


def bomb() -> Frame:
    """Return 200 MB in 200 kB, as 200 independent blocks that each inflate to 1 MB."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = engine.compress(bytes(2**20)) + engine.flush(zlib.Z_FULL_FLUSH)
    return Frame(BINARY, (block * 200)[:-4], rsv=4)


_ROWS = [
    # --- the network
    ended("reset", "1", 1006, Rst()),
    ended("fin", "2", 1006, Fin()),
    ended(
        "half-open", "3", 1006, Drain(),
        options=IMPATIENT,
        given_up=LIMIT, error=("StreamClosedError", "nothing received for 1 s"),
    ),
    ended("part-then-fin", "7", 1006, Send(Frame(TEXT, "never whole").data[:-3])),
    ended(
        "part-then-silence", "8", 1006, Send(Frame(TEXT, "never whole").data[:-3]), Drain(),
        options=IMPATIENT, given_up=LIMIT,
    ),
    Scenario(
        "byte-by-byte", ("6",),
        ([Upgrade(), Send(b"".join(f.data for f in texts(*TEN)), 1, 0.002), Converse()],),
        handled=TEN, connections=(1, 1), ends=(),
    ),
    Scenario(
        "refused-then-back", ("10",), (stay("good"),), away=4,
        handled=("good",), connections=(1, 1), error=("ConnectionRefusedError", ""),
    ),
    # --- the handshake
    final("unauthorized", "31", [Respond(401)], ("UnauthorizedError", "401")),
    final("forbidden", "31", [Respond(403)], ("UnauthorizedError", "403")),
    final("not-found", "32", [Respond(404)], ("HandshakeError", "404")),
    refused(
        "429-retry-after", "33", [Respond(429, ["Retry-After: 1"])],
        error=("HandshakeError", "429"), waits=((1.0, 1.25),),
    ),
    refused(
        "503-retry-after", "34", [Respond(503, ["Retry-After: 1"])],
        error=("HandshakeError", "503"), waits=((1.0, 1.25),),
    ),
    refused("502", "35", [Respond(502)], error=("HandshakeError", "502")),
    final(
        "redirect-elsewhere", "36", [Respond(302, ["Location: ws://127.0.0.1:9/"])],
        ("HandshakeError", "302"),
    ),
    final("wrong-accept", "37", [Upgrade(accept="bm9wZQ==")], ("HandshakeError", "")),
    refused("not-http", "38", [Send(b"SSH-2.0-OpenSSH_9.2p1\r\n")]),
    refused("endless-header", "39", [Send(b"HTTP/1.1 101 x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n")]),
    refused("503-with-5-mb", "40", [Respond(503, body=bytes(5 * 2**20))]),
    refused(
        "drip-answer", "41", [Send(b"HTTP/1.1 101 Switching Protocols\r\n" * 9, 1, 0.05), Drain()],
        options={"open_timeout": 0.5}, error=("TimeoutError", "open_timeout"), given_up=0.5,
    ),
    refused(
        "no-answer", "42", [Drain()],
        options={"open_timeout": 0.5}, error=("TimeoutError", "open_timeout"), given_up=0.5,
    ),
    refused("fin-before-the-answer", "43", []),
    refused("rst-before-the-answer", "43", [Rst()]),
    final(
        "unasked-subprotocol", "44", [Upgrade(["Sec-WebSocket-Protocol: unasked"])],
        ("HandshakeError", ""),
    ),
    # --- the protocol
    broken("not-utf-8", "45", 1007, Frame(TEXT, b"\xff\xfe")),
    broken("2-mb-announced", "46", 1009, Frame(BINARY, b"", size=2 * 2**20)),
    broken("protocol-error", "47", 1002, Frame(3, "x")),
    broken(
        "5000-fragments", "48", 1009,
        Frame(TEXT, "x", fin=False), Send(Frame(CONTINUATION, "x", fin=False).data * 5000),
    ),
    Scenario(
        "compression-bomb", ("49",),
        ([DEFLATE, Frame(TEXT, "good"), bomb(), ExpectFrame(CLOSE), Drain()], stay("next")),
        handled=("good", "next"), ends=(1009,), answers=(1009, 1000),
        options={"close_timeout": 0.3},
    ),
    ended("close-1000", "52", 1000, Close(1000)),
    ended("close-1001", "52", 1001, Close(1001)),
    ended("close-without-code", "52", 1005, Close(None)),
    ended("close-1011", "53", 1011, Close(1011)),
    Scenario(
        "close-1012", ("54",), ([Upgrade(), Close(1012)], stay("never")), options=SLOW_DELAYS,
        connections=(1, 1), ends=(1012,), waits=((5.0, 30.0),),
    ),
    Scenario(
        "close-1013", ("55",), ([Upgrade(), Close(1013)], stay("never")), options=SLOW_DELAYS,
        connections=(1, 1), ends=(1013,), waits=((10.0, 30.0),),
    ),
    # Before the client is ready, because the first one after that counts as a restart.
    final(
        "close-4001", "56",
        [Upgrade(then=Close(4001, "gone").data), Drain()], ("StreamClosedError", "gone"),
    ),
    ended("close-1009", "57", 1009, Close(1009), error=("StreamClosedError", "from this client")),
    ended("data-after-close", "59", 1001, Send(Close(1001).data + Frame(TEXT, "late").data)),
    Scenario(
        "burst-then-close", ("60",),
        ([Upgrade(), Send(b"".join(f.data for f in texts(*TEN)) + Close(1001).data)], stay("next")),
        handled=(*TEN, "next"), ends=(1001,),
    ),
    # --- flapping, handlers, the end
    Scenario(
        "flapping", ("61",), ([Upgrade(), Close(1000)],), options=THIRTIETH,
        connections=(3, 14), seconds=1.0,
    ),
    Scenario(
        "on-ready-fails", ("62",), (stay(),), options=THIRTIETH, ready_fails=1000,
        connections=(3, 14), seconds=1.0, error=("HandlerError", "on_ready"),
    ),
    Scenario(
        "on-ready-fails-once", ("G6",), (stay(), stay("good")), ready_fails=1,
        handled=("good",), answers=(1000, 1000), error=("HandlerError", "on_ready"),
    ),
    Scenario(
        "handler-raises", ("66",), (stay("one", "raise", "two", "raise", "three"),),
        handled=("one", "two", "three"), failed=2, connections=(1, 1), ends=(),
        error=("HandlerError", "LookupError"),
    ),
    Scenario(
        "handler-exits", ("67",), (stay("one", "exit", "two"),),
        handled=("one", "two"), failed=1, connections=(1, 1), ends=(),
        error=("HandlerError", "SystemExit"),
    ),
    Scenario(
        "stopped-in-the-middle", ("G13",), (stay("hold", *TEN),), handled=("hold", *TEN),
        connections=(1, 1), answers=(1000,),
    ),
]  # fmt: skip

SCENARIOS: dict[str, Scenario] = {row.name: row for row in _ROWS}
