"""What has changed in a source."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from datastream_ws import ClientOptions, ConfigurationError
from datastream_ws.fleet.source import Changes, Row, compare

DEFAULTS = ClientOptions("ws://localhost", name="accounts", max_size=5)


def row(token: str) -> dict[str, Any]:
    return {"url": "ws://localhost/feed", "headers": {"Authorization": token}}


def check(row: Row) -> object:
    return row.options(DEFAULTS, "accounts")


def test_rows_are_new_changed_gone_or_the_same() -> None:
    rows, changes = compare({}, {1: row("a"), 2: row("b"), "x": row("c")}, check)
    assert changes == Changes(added=("1", "2", "x"))
    rows, changes = compare(rows, {1: row("a"), 2: row("new"), 3: row("d")}, check)
    assert changes == Changes(added=("3",), changed=("2",), gone=("x",))
    assert not compare(rows, {1: row("a"), 2: row("new"), 3: row("d")}, check)[1]


def test_a_row_that_the_source_has_changed_in_place_is_seen() -> None:
    given = {1: row("a")}
    rows, _ = compare({}, given, check)
    given[1]["headers"]["Authorization"] = "b"
    assert compare(rows, given, check)[1].changed == ("1",)


def test_options_are_the_rows_and_else_the_fleets() -> None:
    options = Row(7, {**row("a"), "max_size": 9}).options(DEFAULTS, "accounts")
    assert (options.name, options.max_size) == ("accounts/7", 9)
    assert Row(7, row("a")).options(DEFAULTS, "accounts").max_size == 5


def test_a_row_that_cannot_work_leaves_the_others_and_its_own_stream_alone() -> None:
    rows, _ = compare({}, {1: row("a"), 2: row("b")}, check)
    bad: dict[Any, Any] = {1: {"url": "http://x"}, 2: row("c"), 3: None, 4: {"urll": ""}, 5: {}}
    rows, changes = compare(rows, bad, check)
    assert changes.changed == ("2",)
    assert changes.gone == changes.added == ()
    assert sorted(changes.errors) == ["1", "3", "4", "5"]
    assert "Did you mean 'url'" in str(changes.errors["4"])
    assert rows["1"].matches(row("a"))


@pytest.mark.parametrize("given", [None, [1], "text"])
def test_what_is_no_mapping_is_refused(given: object) -> None:
    with pytest.raises(ConfigurationError, match="must return a mapping"):
        compare({}, given, check)


def test_keys_that_are_written_alike_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two keys have the text '1'"):
        compare({}, {1: row("a"), "1": row("b")}, check)


@pytest.mark.parametrize("option", ["name", "handlers", "lease", "logger"])
def test_what_belongs_to_the_fleet_is_refused_in_a_row(option: str) -> None:
    _, changes = compare({}, {1: {**row("a"), option: None}}, check)
    assert "is an option of the fleet" in str(changes.errors["1"])


def token(number: int) -> dict[str, str]:
    return {"Authorization": str(number)}


def test_partials_of_the_same_function_and_arguments_are_the_same() -> None:
    def source(number: int) -> dict[int, dict[str, Callable[..., Any] | str]]:
        return {1: {"url": "ws://localhost", "headers": partial(token, number)}}

    rows, _ = compare({}, source(1), check)
    assert not compare(rows, source(1), check)[1]
    assert compare(rows, source(2), check)[1].changed == ("1",)


def test_no_secret_is_shown() -> None:
    assert "secret" not in repr(Row(1, row("secret")))
    rows, _ = compare({}, {1: row("secret")}, check)
    assert "secret" not in repr(rows)


def test_ten_thousand_rows_are_compared_in_a_moment() -> None:
    rows, _ = compare({}, {n: row(f"token {n}") for n in range(10_000)}, repr)
    took = []
    for _ in range(10):
        given = {n: row(f"token {n}") for n in range(10_000)}
        given[77] = row("another")
        began = time.thread_time()
        _, changes = compare(rows, given, repr)
        took.append(time.thread_time() - began)
        assert changes.changed == ("77",)
    assert min(took) < 0.05  # of the processor's time: others use this machine, too
