"""SIGINT and SIGTERM inside a block, and what was there before it after it."""

from __future__ import annotations

import signal
import threading

import pytest

from datastream_ws.process.signals import signals_to


def test_signals_reach_the_callback_and_the_handlers_come_back() -> None:
    heard: list[int] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with signals_to(heard.append):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert heard == [signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_elsewhere_than_in_the_main_thread_nothing_changes() -> None:
    seen: list[object] = []

    def block() -> None:
        with signals_to(lambda number: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_handler_of_c_code_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python cannot put it back; that is no reason to fail."""
    set_to: list[object] = []

    def fake(number: int, handler: object) -> None:
        set_to.append(handler)

    monkeypatch.setattr(signal, "signal", fake)
    with signals_to(lambda number: None):
        pass
    assert len(set_to) == 2
