"""An event loop whose clock jumps to the next timer, so that hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

__all__ = ["VirtualLoop"]

TURN = 1e-6  # seconds


class JumpingSelector(selectors.BaseSelector):
    """Looks at the real descriptors, and never waits for them."""

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
            raise RuntimeError("nothing is due and nothing can happen: everybody waits for ever")
        # A turn takes a moment: who waits for the rest of a time must not see the same for ever.
        self.now += TURN + (timeout or 0 if not found else 0)
        return found

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        found: Mapping[Any, selectors.SelectorKey] = self._real.get_map()
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module; :meth:`time` is seconds since an arbitrary moment."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def pass_time(self, seconds: float) -> None:
        """Let everything happen that happens within *seconds*; 0 is one turn of the loop."""
        self.run_until_complete(asyncio.sleep(seconds))
