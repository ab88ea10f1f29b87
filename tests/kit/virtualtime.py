"""An event loop whose clock jumps to the next timer, so that hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

__all__ = ["VirtualLoop"]

TURN = 1e-6  # seconds


class JumpingSelector(selectors.BaseSelector):
    """A selector that checks the real descriptors, and never waits for them."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now = 1000.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if not found and timeout is None:
            raise RuntimeError("no timer is set and no event can happen, so the loop would hang")
        # Each turn takes a moment, so that a loop that waits for the rest of a time ends.
        self.now += TURN + (timeout or 0 if not found else 0)
        return found

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        found: Mapping[Any, selectors.SelectorKey] = self._real.get_map()
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, in seconds since an arbitrary moment."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def pass_time(self, seconds: float) -> None:
        """Run the loop for *seconds* of virtual time. 0 runs it for one turn."""
        self.run_until_complete(asyncio.sleep(seconds))
