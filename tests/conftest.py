"""What every test folder shares."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

pytest.register_assert_rewrite("kit")  # asserts in helpers explain themselves, too

# Only what is imported later is rewritten.
from kit.guard import leak_guard  # noqa: E402
from kit.services import url_of  # noqa: E402

__all__ = ["leak_guard"]

# What takes long here took long because the machine was busy.
hypothesis.settings.register_profile(
    "here", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("here")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Most tests wait for a process or a socket, half of their time."""
    return (os.cpu_count() or 1) + 2


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "leaks_allowed(reason): may leave threads, tasks or descriptors behind"
    )
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in the background so, and every process started here inherits it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "fault(*ids): shows what happens in these faults of kit/faultbook.py"
    )


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
