"""How many messages may be handled in all, by whatever inboxes share it."""

from __future__ import annotations

import threading

from datastream_ws import Message
from datastream_ws.codecs import JsonCodec
from datastream_ws.handling.budget import Budget
from datastream_ws.handling.stores import Fifo
from datastream_ws.messages import Origin

ORIGIN = Origin("default", 1, 1, JsonCodec(), "type")


def store_of(messages: int) -> Fifo:
    store = Fifo()
    for seq in range(1, messages + 1):
        store.push(Message(str(seq), ORIGIN, seq, 0.0))
    return store


def test_the_last_one_is_told_of_once() -> None:
    told: list[bool] = []
    budget = Budget(2, lambda: told.append(budget.is_spent))
    store = store_of(3)
    assert budget.pop(store)
    assert (told, budget.is_spent) == ([], False)
    assert budget.pop(store)
    assert (told, budget.is_spent) == ([True], True)
    assert budget.pop(store) is None
    assert len(store) == 1
    assert told == [True]


def test_an_empty_store_costs_nothing() -> None:
    budget = Budget(1, lambda: None)
    assert budget.pop(store_of(0)) is None
    assert not budget.is_spent


def test_messages_that_no_store_has_had_count() -> None:
    """Inline handlers take them before."""
    told: list[str] = []
    budget = Budget(2, lambda: told.append("spent"))
    budget.spend()
    assert told == []
    budget.spend()
    budget.spend()  # as many as one read had
    assert told == ["spent"]
    assert budget.pop(store_of(1)) is None


def test_many_threads_share_it() -> None:
    """Not one too many, and told once."""
    told: list[str] = []
    budget = Budget(1000, lambda: told.append("spent"))
    taken: list[int] = []

    def take() -> None:
        store, number = store_of(500), 0
        while budget.pop(store) is not None:
            number += 1
        taken.append(number)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(taken), told) == (1000, ["spent"])


def test_what_is_told_may_ask_again() -> None:
    """It is told outside the lock."""
    store = store_of(2)
    found: list[Message | None] = []
    budget = Budget(1, lambda: found.append(budget.pop(store)))
    assert budget.pop(store)
    assert found == [None]
