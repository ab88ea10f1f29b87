"""Where the processes of a fleet meet, in Redis and in the database: both do the same."""

from __future__ import annotations

import kit.djangohere  # noqa: F401 - what follows needs settings

# isort: split
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from datastream_ws.lease import RedisLease
from datastream_ws.lease.redis_scripts import RedisScripts
from datastream_ws.lease.shared import MemberRecord, SharedStore
from datastream_ws_django.lease import DatabaseLease
from datastream_ws_django.models import StreamLease

LIFE = 12.0
Make = Callable[[], SharedStore]


def member(token: str, beat: int = 1, **more: Any) -> MemberRecord:
    return MemberRecord(token=token, beat=beat, life=LIFE, **more)


@pytest.fixture(params=["redis", "database"])
def make(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[Make]:
    """Return what makes another process's way to one store."""
    name, made = f"test-{uuid.uuid4().hex}", list[SharedStore]()
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")

    def make() -> SharedStore:
        is_redis = request.param == "redis"
        made.append((RedisLease(url, name) if is_redis else DatabaseLease(name)).shared_store())
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def one(make: Make) -> SharedStore:
    store = make()
    assert list(store.join(member("h:1:a:1"), "h:1:a:0", {}) or ()) == []
    return store


@pytest.fixture
def two(make: Make) -> SharedStore:
    store = make()
    store.join(member("h:2:b:1", limit=7), "h:2:b:0", {})
    return store


ONE, TWO = "h:1:a:1", "h:2:b:1"


def test_each_sees_all(one: SharedStore, two: SharedStore) -> None:
    assert two.look().members == {ONE: member(ONE), TWO: member(TWO, limit=7)}
    assert one.renew(member(ONE, 2, is_leaving=True))
    assert two.look().members[ONE] == member(ONE, 2, is_leaving=True)


def test_what_is_free_is_taken_by_one(one: SharedStore, two: SharedStore) -> None:
    epoch, taken = one.take(ONE, ["1", "2", "schön"], [])
    assert sorted(taken) == ["1", "2", "schön"]
    assert abs(epoch - time.time() * 1000) < 60_000
    later, rest = two.take(TWO, ["1", "2", "3"], [])
    assert list(rest) == ["3"]
    assert later > epoch
    found = two.look().holders
    assert {key: (held.token, held.epoch) for key, held in found.items()} == {
        "1": (ONE, epoch),
        "2": (ONE, epoch),
        "schön": (ONE, epoch),
        "3": (TWO, later),
    }


def test_names_differ_by_case_and_accents(one: SharedStore) -> None:
    """The default collations of MySQL and MariaDB regard them as the same."""
    _, taken = one.take(ONE, ["a", "A", "ä"], [])
    assert sorted(taken) == ["A", "a", "ä"]
    assert one.look().holders.keys() == {"A", "a", "ä"}


def test_holders_are_read_when_they_have_changed(one: SharedStore, two: SharedStore) -> None:
    one.take(ONE, ["1"], [])
    first = two.look().holders
    assert two.look().holders is first
    one.renew(member(ONE, 5))
    assert two.look().holders is first
    one.release(ONE, ["1"], [])
    assert two.look().holders == {}


def test_another_tenure_of_one_s_own_has_another_epoch(one: SharedStore) -> None:
    epoch, _ = one.take(ONE, ["1"], [])
    later, taken = one.take(ONE, ["1"], [])
    assert (list(taken), later > epoch) == (["1"], True)


def test_only_one_s_own_is_let_go_of(one: SharedStore, two: SharedStore) -> None:
    one.take(ONE, ["1"], [])
    two.take(TWO, ["2"], [])
    two.release(TWO, ["1", "2"], [])
    assert one.look().holders.keys() == {"1"}


def test_a_dead_one_is_removed_if_its_beat_still_stands(one: SharedStore, two: SharedStore) -> None:
    one.take(ONE, ["1", "2"], [])
    seen = two.look().members[ONE]
    one.renew(member(ONE, 2))
    two.remove(seen)
    assert ONE in two.look().members
    two.remove(two.look().members[ONE])
    found = two.look()
    assert found.members.keys() == {TWO}
    assert found.holders["1"].token == ONE, "whose it was"
    assert not one.renew(member(ONE, 3))
    assert list(one.take(ONE, ["3"], [])[1]) == [], "it is no member any more"
    assert list(two.take(TWO, ["1"], [ONE])[1]) == ["1"]
    two.release(TWO, ["2"], [ONE])
    assert two.look().holders.keys() == {"1"}, "what is a dead one's may be removed"


def test_the_next_term_frees_what_the_last_one_had(one: SharedStore, two: SharedStore) -> None:
    one.take(ONE, ["1"], [])
    one.join(member("h:1:a:2"), ONE, {})
    assert two.look().members.keys() == {"h:1:a:2", TWO}
    assert list(two.take(TWO, ["1"], [ONE])[1]) == ["1"]


def test_one_that_leaves_lets_go_of_all(one: SharedStore, two: SharedStore) -> None:
    one.take(ONE, ["1", "2"], [])
    one.leave(ONE)
    found = two.look()
    assert (set(found.members), len(found.holders)) == ({TWO}, 0)


def test_a_join_that_was_not_answered_may_be_repeated(one: SharedStore) -> None:
    one.join(member(ONE, 2), "h:1:a:0", {})
    assert one.look().members == {ONE: member(ONE, 2)}


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_an_hour_between_the_clocks_of_two_hosts(
    one: SharedStore, two: SharedStore, monkeypatch: pytest.MonkeyPatch, skew: int
) -> None:
    real = time.time_ns
    epochs = [one.take(ONE, ["1"], [])[0]]
    one.release(ONE, ["1"], [])
    monkeypatch.setattr(time, "time_ns", lambda: real() + skew * 10**9)
    epochs.append(two.take(TWO, ["1"], [])[0])
    two.release(TWO, ["1"], [])
    monkeypatch.setattr(time, "time_ns", real)
    epochs.append(one.take(ONE, ["1"], [])[0])
    assert epochs == sorted(set(epochs))


def test_a_renewal_of_any_number_is_one_round_trip_and_so_is_a_look(
    one: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(one.take(ONE, [f"k{n}" for n in range(500)], [])[1]) == 500
    assert len(one.look().holders) == 500
    run, scripts = RedisScripts.run, list[str]()

    def counted(self: RedisScripts, script: str, *arguments: Any) -> Any:
        scripts.append(script)
        return run(self, script, *arguments)

    monkeypatch.setattr(RedisScripts, "run", counted)
    for ask in (lambda: one.renew(member(ONE, 2)), one.look):
        scripts.clear()
        with CaptureQueriesContext(connection) as queries:
            assert ask()
        assert len(scripts) + len(queries) == 1


def test_three_thousand_streams(one: SharedStore, two: SharedStore) -> None:
    keys = [f"k{n}" for n in range(3000)]
    assert len(one.take(ONE, keys, [])[1]) == 3000
    assert len(two.look().holders) == 3000
    one.release(ONE, keys[1000:], [])
    assert len(two.look().holders) == 1000
    one.leave(ONE)
    assert two.look().holders == {}


def test_a_row_that_was_deleted_by_hand_is_made_again(transactional_db: None) -> None:
    store = DatabaseLease("accounts").shared_store()
    store.join(member(ONE), "h:1:a:0", {})
    StreamLease.objects.all().delete()
    assert list(store.take(ONE, ["1"], [])[1]) == ["1"]
    store.close()


def test_redis_tells_that_it_has_lost_its_data(redis_url: str) -> None:
    redis = pytest.importorskip("redis")
    name = f"test-{uuid.uuid4().hex}"
    stores = [RedisLease(redis_url, name).shared_store() for _ in range(3)]
    one, two, late = stores
    one.join(member(ONE), "h:1:a:0", {})
    two.join(member(TWO), "h:2:b:0", {})
    epoch, _ = one.take(ONE, ["1", "2"], [])
    with redis.Redis.from_url(redis_url) as client:
        client.delete(
            *(f"datastream-ws:{{{name}}}:{kind}" for kind in ("members", "holders", "fleet"))
        )
    two.look()
    assert two.has_lost_data
    assert not one.renew(member(ONE, 2))
    assert one.has_lost_data
    two.join(member(TWO, 3), TWO, {})
    assert list(two.take(TWO, ["1"], [])[1]) == [], "others may hold it"
    late.join(member("h:3:c:1"), "h:3:c:0", {})
    assert list(late.take("h:3:c:1", ["1"], [])[1]) == []
    assert sorted(one.join(member(ONE, 3), ONE, {"1": epoch, "2": epoch}) or ()) == ["1", "2"]
    assert vars(one)["has_lost_data"] is False
    assert two.look().holders["1"] == (ONE, epoch)
    assert one.take(ONE, ["1"], [])[0] > epoch, "its own it may begin again"
    for store in stores:
        store.leave(ONE)
        store.close()
