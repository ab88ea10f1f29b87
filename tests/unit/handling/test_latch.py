"""The flag that threads wait for."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from datastream_ws.handling.latch import Latch


def test_waiting_ends_without_the_flag() -> None:
    latch = Latch()
    began = time.monotonic()
    assert not latch.wait(0.02)
    assert not latch.is_set()
    assert not latch.wait(-1.0)
    assert time.monotonic() - began >= 0.02


def test_all_waiting_threads_are_woken() -> None:
    latch = Latch()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(latch.wait, 10.0) for _ in range(8)]
        assert not latch.wait(0.02)
        began = time.monotonic()
        latch.set()
        assert all(each.result(10) for each in waiting)
    assert time.monotonic() - began < 5


def test_it_stays_set() -> None:
    latch = Latch()
    latch.set()
    latch.set()
    assert latch.is_set()
    assert latch.wait()
    assert latch.wait(0.0)


def test_threads_may_set_it_at_once() -> None:
    for _ in range(200):
        latch = Latch()
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(latch.wait, 10.0) for _ in range(2)]
            setting = [pool.submit(latch.set) for _ in range(2)]
            assert all(each.result(10) for each in waiting)
            assert [each.result(10) for each in setting] == [None, None]
