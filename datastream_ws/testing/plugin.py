"""The pytest plugin: the fixture ``stream_server``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import StreamServer

__all__ = ["stream_server"]


@pytest.fixture
def stream_server() -> Iterator[StreamServer]:
    """Give a running StreamServer of the test's own."""
    # Here, not above: this module is loaded in every test run of every user.
    from .server import StreamServer

    with StreamServer() as server:
        yield server
