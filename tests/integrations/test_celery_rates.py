"""The two ratios that forward() promises, each measured in one run."""

from __future__ import annotations

from contextlib import closing

import pytest

from benchmarks.celery_forward import Arena, batch_ratio, single_ratio

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.leaks_allowed("kombu lets go of its pool's sockets late"),
]


@pytest.fixture(params=["redis_url", "amqp_url"])
def broker(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


def test_single_publishing(broker: str) -> None:
    """At least 0.9 of a bare loop of apply_async() with the same confirms and timeouts."""
    with closing(Arena(broker, persistent=False)) as arena:
        ratio = single_ratio(arena, 300, 9)
    print(f"single publishing: {ratio:.2f} of a bare loop")
    assert ratio >= 0.9


def test_batches(broker: str) -> None:
    """At least 20 times the messages of one task per message."""
    with closing(Arena(broker)) as arena:
        ratio = batch_ratio(arena, 300, 5)
    print(f"batches: {ratio:.1f} of single publishing")
    assert ratio >= 20
