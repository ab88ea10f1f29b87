"""A missing service skips here and fails in CI: else a green CI might have tested nothing."""

from __future__ import annotations

import socket

import pytest

from kit.services import url_of


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_missing_service_skips_with_its_name(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("REDIS_URL", f"redis://:secret@127.0.0.1:{closed_port}/0")
    with pytest.raises(pytest.skip.Exception, match=r"no redis at .* REDIS_URL") as skipped:
        url_of("redis")
    assert "secret" not in str(skipped.value)


def test_missing_service_fails_in_ci(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("AMQP_URL", f"amqp://127.0.0.1:{closed_port}")
    with pytest.raises(pytest.fail.Exception, match=r"no rabbitmq at .* AMQP_URL"):
        url_of("rabbitmq")


def test_running_service_is_named_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/3"
        monkeypatch.setenv("REDIS_URL", url)
        assert url_of("redis") == url
