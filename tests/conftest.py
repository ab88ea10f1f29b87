"""What every test folder shares."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("kit")  # asserts in helpers explain themselves, too

from kit.services import url_of  # noqa: E402  (only what is imported later is rewritten)


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The URL of a running Redis; without one: skipped, or failed when CI is set."""
    return url_of("redis")


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """The URL of a running RabbitMQ; without one: skipped, or failed when CI is set."""
    return url_of("rabbitmq")


@pytest.fixture(scope="session")
def database_url() -> str:
    """The URL of a running PostgreSQL; without one: skipped, or failed when CI is set."""
    return url_of("postgresql")
