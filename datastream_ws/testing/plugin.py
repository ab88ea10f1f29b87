"""The pytest plugin, with the fixture ``stream_server``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import StreamServer

__all__ = ["stream_server"]


@pytest.fixture
def stream_server() -> Iterator[StreamServer]:
    """Yield a new StreamServer that is running."""
    # Imported on first use, because every pytest run loads this module.
    from .server import StreamServer

    with StreamServer() as server:
        yield server
