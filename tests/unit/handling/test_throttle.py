"""Events at full speed are reported once in REPORT_SECONDS, and none of them is left out."""

from __future__ import annotations

import asyncio

import pytest

from datastream_ws.handling import throttle
from datastream_ws.handling.throttle import Throttle
from kit.rigs import until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "REPORT_SECONDS", 0.05)


async def test_the_first_is_reported_at_once_and_the_rest_together() -> None:
    reported: list[int] = []
    throttled = Throttle(reported.append)
    for count in (3, 1, 2):
        throttled.note(count)
    assert reported == [3]
    await until(lambda: len(reported) == 2)
    assert reported == [3, 3]
    throttled.note()
    assert reported == [3, 3]
    await until(lambda: len(reported) == 3)
    await asyncio.sleep(0.1)
    assert reported == [3, 3, 1]


async def test_flush() -> None:
    reported: list[int] = []
    throttled = Throttle(reported.append)
    throttled.flush()
    throttled.note()
    throttled.note()
    throttled.flush()
    assert reported == [1, 1]
    await asyncio.sleep(0.1)
    assert reported == [1, 1]
