"""The table of `celery inspect datastream`, from replies of workers of other versions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from datastream_ws import Client
from datastream_ws.celery.commandline import _rows
from datastream_ws.health import describe

FACTS = asdict(describe(Client("ws://localhost", name="prices"), 1_800_000_000.0))


def test_fields_of_a_newer_worker_are_ignored() -> None:
    reply = {"prices": FACTS | {"more": 1}}
    assert list(_rows("w1@host", reply)) == list(_rows("w1@host", {"prices": FACTS}))


@pytest.mark.parametrize(
    "facts",
    [{}, {"name": "prices"}, FACTS | {"messages_handled": "many"}],
    ids=["empty", "incomplete", "of_another_type"],
)
def test_an_unreadable_reply_is_a_row(facts: dict[str, Any]) -> None:
    [row] = _rows("w1@host", {"prices": facts})
    assert (row.stream, row.state, row.runner) == ("prices", "unknown", "w1@host")
    assert not row.is_healthy
    assert "another version of datastream-ws" in row.error
