"""The lease in Redis, with a clock that the test moves: whose clock decides, and when."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from datastream_ws.exceptions import LeaseError
from datastream_ws.lease import RedisLease
from datastream_ws.lease import liveness as watch

redis = pytest.importorskip("redis")

TTL = 60.0


class Clock:
    """This machine's clock, moved by the test; Redis' own goes on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(watch, "clock", made)
    return made


class Store:
    """Redis, as somebody else reaches it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stream = f"test-{uuid.uuid4().hex}"
        self.key = f"datastream-ws:{{{self.stream}}}:holder"
        self.client: Any = redis.Redis.from_url(url)
        self._made: list[RedisLease] = []

    def lease(self) -> RedisLease:
        self._made.append(RedisLease(self.url, self.stream))
        return self._made[-1]

    def close(self) -> None:
        for lease in self._made:
            lease.release()
        self.client.delete(self.key, self.key.replace(":holder", ":epoch"))
        self.client.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    made = Store(redis_url)
    yield made
    made.close()


def test_only_one_gets_it_and_epochs_rise(store: Store, clock: Clock) -> None:
    first, second = store.lease(), store.lease()
    epoch = first.acquire(TTL)
    assert epoch is not None
    assert second.acquire(TTL) is None
    first.release()
    later = second.acquire(TTL)
    assert later is not None
    assert later > epoch


def test_a_holder_that_renews_keeps_it(store: Store, clock: Clock) -> None:
    first, second = store.lease(), store.lease()
    first.acquire(TTL)
    for _ in range(5):
        assert second.acquire(TTL) is None
        clock.now += TTL / 2
        assert first.renew(TTL)


@pytest.mark.parametrize("jump", ["forward", "backward", "lost"])
def test_the_store_s_clock_does_not_matter_to_those_who_stood_by(
    store: Store, clock: Clock, jump: str
) -> None:
    """Redis' clock jumps, or its data are gone: they wait for the time to live, and no longer."""
    first, second = store.lease(), store.lease()
    first.acquire(TTL)
    assert second.acquire(TTL) is None
    first.renew(TTL)
    assert second.acquire(TTL) is None
    if jump == "lost":
        store.client.delete(store.key, store.key.replace(":holder", ":epoch"))
    elif jump == "forward":
        store.client.delete(store.key)
    else:
        store.client.pexpire(store.key, 10**7)
    clock.now += TTL - 1
    assert second.acquire(TTL) is None, "the holder may be within its tenure"
    clock.now += 1.1
    assert second.acquire(TTL) is not None
    assert not first.renew(TTL)


def test_a_holder_puts_back_what_redis_has_lost(store: Store, clock: Clock) -> None:
    first, second = store.lease(), store.lease()
    epoch = first.acquire(TTL) or 0
    assert second.acquire(TTL) is None
    store.client.delete(store.key, store.key.replace(":holder", ":epoch"))
    assert first.renew(TTL)
    clock.now += TTL - 1
    assert second.acquire(TTL) is None
    clock.now += TTL
    assert (second.acquire(TTL) or 0) > epoch


def test_one_that_has_just_come_believes_redis(store: Store, clock: Clock) -> None:
    """It does not wait for a holder that died long ago."""
    first = store.lease()
    epoch = first.acquire(TTL) or 0
    store.client.pexpire(store.key, 20_000)
    late = store.lease()
    assert late.acquire(TTL) is None
    clock.now += 20.1
    store.client.delete(store.key)
    assert (late.acquire(TTL) or 0) > epoch
    late.release()
    store.client.delete(store.key)
    assert store.lease().acquire(TTL) is not None


def test_a_holder_that_was_dead_once_is_not_taken_for_dead_again(
    store: Store, clock: Clock
) -> None:
    first, second = store.lease(), store.lease()
    first.acquire(TTL)
    assert second.acquire(TTL) is None
    clock.now += TTL
    assert second.acquire(TTL) is not None
    second.release()
    first.release()
    assert first.acquire(TTL) is not None
    assert second.acquire(TTL) is None


def test_a_grant_whose_answer_was_lost_is_released(store: Store, clock: Clock) -> None:
    """Redis granted it and the answer was late; the client closes before it asks again."""
    first, second = store.lease(), store.lease()
    run = first._scripts.run

    def lost(*arguments: Any) -> None:
        run(*arguments)
        raise LeaseError("no answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first._scripts, "run", lost)
        with pytest.raises(LeaseError):
            first.acquire(TTL)
    assert second.acquire(TTL) is None
    first.release()
    assert second.acquire(TTL) is not None
