"""
The shutdown of a client within a deadline.

It calls the ``on_closing`` hooks, handles received messages, flushes sent ones and closes the
connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from ..connection.connection import Connection
from ..events import State
from ..exceptions import DataStreamError, LeaseError, ReconnectError, SpoolError, said
from ..handling.hooks import HookFailure
from .assembly import Parts

__all__ = ["Closing"]


class Closing:
    """
    The shutdown of a client, on the loop's thread. After a cancellation it may be run again.

    Args:
        parts: The objects of the client.
        connection: The open connection. ``None`` means that there is none.
        error: The error that the client fails with. ``None`` means a regular shutdown.

    """

    def __init__(
        self, parts: Parts, connection: Connection | None, error: BaseException | None
    ) -> None:
        self._parts = parts
        self._connection = connection
        self._error = error
        self._loop = parts.loop
        self._dropped = self._unwritten = 0

    @property
    def error(self) -> BaseException | None:
        """The error that the client fails with, which may be internal. ``None`` if it closes."""
        return self._parts.death if self._error is None else self._error

    async def run(self) -> None:
        """Handle received messages, then close the connection."""
        parts = self._parts
        if parts.commands.deadline is None:
            parts.commands.close(parts.options.close_timeout)
        if self._connection is not None or parts.inbox.waiting:
            parts.reporter.state(State.CLOSING, self._error)
        await self._step(self._say_goodbye)
        await self._step(self._drain)
        await self._step(self._close_connection)
        await self._step(self._stop_hooks)
        await self._step(self._close_inbox)
        await self._step(parts.dispatcher.stop)

    async def release(self) -> None:
        """Close the spool and release the lease."""
        await self._step(self._close_spool)
        await self._step(self._release_lease)

    async def report(self) -> None:
        """Report the final state."""
        reporter, error = self._parts.reporter, self.error
        if dropped := self._dropped + self._unwritten:
            reporter.log("error", "closed; unhandled messages dropped: %d", dropped)
        if error is not None:
            text = "%s" if isinstance(error, ReconnectError) else "gave up: %s"
            reporter.log("error", text, said(error))
        reporter.final_state(error)
        await reporter.finish(max(0.5, self._left))

    async def _step(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a step. An internal error skips the rest of it, but no other step."""
        try:
            await step()
        except (asyncio.CancelledError, GeneratorExit):  # the loop shuts down
            raise
        except BaseException as death:
            self._parts.fail(death)

    async def _say_goodbye(self) -> None:
        parts, connection = self._parts, self._connection
        if connection is not None and connection.is_open and parts.hooks.has("on_closing"):
            await self._within(self._call_closing_hooks(connection))

    async def _drain(self) -> None:
        self._parts.intake.stop()
        if not self._parts.inbox.waiting:
            return
        in_time = await self._within(self._parts.dispatcher.drain())
        if not in_time and (waiting := self._parts.inbox.waiting):
            text = "close_timeout has elapsed; messages still unhandled: %d"
            self._parts.reporter.log("warning", text, waiting)

    async def _stop_hooks(self) -> None:
        self._parts.user_calls.cancel()
        await self._parts.hooks.finish(max(0.1, min(1.0, self._left)))

    async def _close_inbox(self) -> None:
        self._dropped += self._parts.inbox.close()

    async def _release_lease(self) -> None:
        if self._parts.tenure is not None:
            await self._parts.tenure.release(max(1.0, self._left))

    # --- the connection ---

    async def _call_closing_hooks(self, connection: Connection) -> None:
        try:
            await self._parts.hooks.call("on_closing", connection)
        except HookFailure as failure:
            self._parts.reporter.report(failure.report)

    async def _close_connection(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            await self._close(connection)
        except Exception:
            connection.fail(DataStreamError("closed after an internal error"))
            await asyncio.wait([connection.closed])
            raise

    async def _close(self, connection: Connection) -> None:
        if connection.is_open and connection.has_unsent:
            await self._flush(connection)
        final_frame = self._parts.commands.final_frame
        # Send a close frame even if the deadline has passed.
        closing = self._loop.create_task(connection.close(max(0.0, self._left), *final_frame))
        while not closing.done():
            await self._parts.commands.changed.wait(closing)
            connection.shorten_close(max(0.0, self._left))
            if self._parts.has_lost_lease:
                connection.fail(LeaseError("the lease is lost"))
        closing.result()

    async def _flush(self, connection: Connection) -> None:
        # The login was canceled, so what it holds back will never be sent.
        flushed = connection.flushed(passes_gate=True)
        in_time = flushed is None or await self._within(_result(flushed))
        if not in_time and connection.has_unsent:
            text = "close_timeout has elapsed; messages are still unsent"
            self._parts.reporter.log("warning", text)
        elif connection.holds_back:
            text = "the login has not ended; messages are still unsent"
            self._parts.reporter.log("warning", text)

    # --- the deadline ---

    @property
    def _left(self) -> float:
        return self._parts.commands.left

    async def _within(self, step: Coroutine[Any, Any, None]) -> bool:
        """
        Run a step, and return whether it has ended in time.

        A tenth of the remaining time, at most 1 second, is kept for the later steps. An error of
        the connection counts as an end.
        """
        if self._left <= 0:
            step.close()
            return False
        reserve = min(1.0, 0.1 * self._left)
        task = self._loop.create_task(step)
        while not task.done() and (left := self._left - reserve) > 0:
            if self._parts.has_lost_lease:
                self._leave_lease()
                break
            await self._parts.commands.changed.wait(task, timeout=left)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
            return False
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, DataStreamError):
            raise error
        return True

    def _leave_lease(self) -> None:
        """Abort the connection and drop messages, because the lease was lost meanwhile."""
        if self._connection is not None:
            self._connection.fail(LeaseError("the lease is lost"))
        self._parts.drop_lost()

    async def _close_spool(self) -> None:
        """Write unhandled messages to the spool, and count those that could not be written."""
        spool, opened = self._parts.spool, self._parts.spool_opened
        if spool is None or opened is None:
            return
        limit = max(1.0, self._left)
        await asyncio.wait([opened], timeout=limit)
        closing = spool.close()  # also if it is still opening, and would then keep its lock
        if not spool.is_open:
            return
        closed = asyncio.wrap_future(closing)
        if not (await asyncio.wait([closed], timeout=limit))[0]:
            self._parts.reporter.report(SpoolError("spool: the file could not be closed in time"))
            return
        if unfinished := spool.unfinished:
            text = (
                "messages still in handlers: %d; the next start handles them again from the spool"
            )
            self._parts.reporter.log("warning", text, unfinished)
        self._unwritten = closed.result()


async def _result(future: Future[None]) -> None:
    # Wrapped only when the task runs. A task that is canceled before must leave no future behind.
    await asyncio.wrap_future(future)
