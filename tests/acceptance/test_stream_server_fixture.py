"""The fixture ``stream_server`` of the pytest plugin."""

from __future__ import annotations

import pytest
from websockets.sync.client import connect

from datastream_ws.testing import StreamServer

pytest_plugins = ["pytester"]


def test_fixture_is_a_running_server(stream_server: StreamServer) -> None:
    """It comes with the package, and it runs."""
    with connect(stream_server.url) as client:
        client.send("x")
        assert stream_server.wait_received(1) == ["x"]


def test_fixture_is_the_tests_own(stream_server: StreamServer) -> None:
    """Nothing of the test before is in it."""
    assert stream_server.connections == []


def test_failing_callback_fails_the_users_test(pytester: pytest.Pytester) -> None:
    """What a callback raised comes out at the fixture's end."""
    pytester.makepyfile(
        """
        def test_callback(stream_server):
            stream_server.errors.append(ZeroDivisionError("in a callback"))
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:django")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError: in a callback*"])
