"""Calls of the user's own functions from the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

__all__ = []


async def call_user(
    function: Callable[..., Any],
    submit: Callable[[Callable[[], Any]], Future[Any]],
    arguments: Sequence[Any] = (),
) -> Any:
    """Call a user's plain or coroutine function from the loop; a plain one on a thread."""
    if asyncio.iscoroutinefunction(function):
        return await function(*arguments)
    result = await asyncio.wrap_future(submit(lambda: function(*arguments)))
    return await result if isinstance(result, Awaitable) else result
