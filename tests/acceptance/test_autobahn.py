"""
The Autobahn conformance cases through our own client: engine, inbox, handler, send.

The cases are served by ``kosoku``, which runs the original case files. What is known to fail
fails with the websockets library itself, by its authors' choice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from datastream_ws import AsyncClient, DataStreamError, Message, NotConnectedError

kosoku = pytest.importorskip("kosoku")

FRAMING = [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 10)]
KNOWN = {"7.1.5"}  # a close frame amid a fragmented message is answered with 1002
LONG = ["9.*", "12.*", "13.*"]
# A message of more than 4,096 fragments is refused.
FRAGMENTED = {"9.3.1", "9.3.2", "9.4.1", "9.4.2"}
# The library does not offer client_no_context_takeover: "unimplemented", in the words of the cases.
UNOFFERED = {f"13.{group}.{n}" for group in (2, 5, 6) for n in range(1, 19)}
KNOWN_LONG = FRAGMENTED | UNOFFERED
LONGEST = 500.0  # seconds that a case may take by its own words


@asynccontextmanager
async def stream(url: str) -> AsyncIterator[AsyncClient]:
    # A case ends with its connection, however long it was, and a ping would end it, too.
    once: dict[str, Any] = {
        "max_reconnect_attempts": 1,
        "stable_after": 3600.0,
        "ping_interval": None,
    }
    async with AsyncClient(
        url, max_size=2**26, logger=Silent(), pong_timeout=None, **once
    ) as client:
        yield client


class Silent:
    """The cases make thousands of errors on purpose."""

    def debug(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def info(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def warning(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...
    def error(self, msg: str, *args: Any, exc_info: Any = None) -> None: ...


async def until_over(client: AsyncClient) -> None:
    """Wait for the end; a case that breaks the protocol ends with the client's error."""
    with suppress(DataStreamError):
        await client.wait_closed(LONGEST)


async def echo(url: str) -> None:
    """Run one case: send back what comes until the connection ends."""
    async with stream(url) as client:

        @client.on_message
        async def back(message: Message) -> None:
            with suppress(NotConnectedError):
                await client.send(message.data)

        await until_over(client)


async def count(base: str) -> int:
    async with stream(f"{base}/getCaseCount") as client:
        async for message in client:
            return int(message.data)
    raise AssertionError("no count")


async def run_cases(cases: list[str]) -> set[str]:
    """Run cases; return the ids of those that did not pass."""
    async with kosoku.run_fuzzingserver(cases, port=0) as server:
        take_what_came_uncompressed()
        base = f"ws://127.0.0.1:{server.port}"
        for number in range(1, await count(base) + 1):
            begun = time.monotonic()
            await echo(f"{base}/runCase?case={number}&agent=us")
            if time.monotonic() - begun > 5:
                print(f"case {number} of {cases}: {time.monotonic() - begun:.1f} s", flush=True)
        async with stream(f"{base}/updateReports?agent=us") as client:
            await until_over(client)
        try:
            await server.get_result()
        except kosoku.FailureError as failure:
            print(failure)
            return {result.case_id for result in failure.results if not result.passed}
    return set()


def take_what_came_uncompressed() -> None:
    """
    Mend kosoku's cases 12 and 13: they want bytes, and are given text unless it was compressed,
    which an echo need not be (RFC 7692 section 6).
    """
    module = sys.modules.get("case12_x_x")
    if module is None:
        return
    original = module.onMessage

    def on_message(case: Any, message: str | bytes, binary: bool) -> None:
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        original(case, message, binary)

    for each in (*module.Case12_X_X, *module.Case13_X_X):
        each.onMessage = on_message


@pytest.mark.fault("45", "47", "58")
@pytest.mark.leaks_allowed("the runtime of kosoku stays")
@pytest.mark.timeout(300)
async def test_framing_cases_pass() -> None:
    """Cases 1 to 7 and 10: only what upstream fails fails."""
    assert await run_cases(FRAMING) <= KNOWN


@pytest.mark.fault("50")
@pytest.mark.leaks_allowed("the runtime of kosoku stays")
@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:.*kosoku/shim/autobahntestsuite")  # files it leaves open
async def test_limits_and_compression_cases_pass() -> None:
    """Cases 9, 12 and 13: sizes, many fragments, permessage-deflate."""
    assert await run_cases(LONG) <= KNOWN_LONG
