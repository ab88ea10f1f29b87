"""The two ratios that forward() promises, beside a bare loop in the same run."""

from __future__ import annotations

import pytest

from benchmarks.celery_forward import Arena, ratios


@pytest.mark.timeout(300)
@pytest.mark.leaks_allowed("kombu lets go of its pool's sockets late")
@pytest.mark.parametrize(("broker", "count"), [("redis", 300), ("rabbitmq", 100)])
def test_rates(broker: str, count: int, request: pytest.FixtureRequest) -> None:
    """Single at least 0.9 of a bare loop of apply_async(), batches at least 20 times single."""
    arena = Arena(request.getfixturevalue({"redis": "redis_url", "rabbitmq": "amqp_url"}[broker]))
    try:
        arena.bare(10)
        single, batch = ratios(arena, count, 9)
    finally:
        arena.close()
    print(f"single {single:.2f} of bare, batch {batch:.1f} of single")
    assert single >= 0.9
    assert batch >= 20
