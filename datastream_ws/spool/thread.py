"""The thread that does all work on a spool's file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing

from ..exceptions import SpoolError
from .file import SpoolFile, is_corrupt
from .file_lock import path_for
from .inbox import BATCH_ROWS, SpooledInbox, WriteBatch
from .run import Run

__all__ = ["SpoolThread"]

RETRY_SECONDS = 1.0  # between attempts to use a file that failed
EPISODE_SECONDS = 10.0  # failures closer together count as one, which is reported once
LINGER_SECONDS = 0.02  # how long a removable row waits for others
LOOK_SECONDS = 0.05  # between checks which of its messages a worker has handled


class SpoolThread:
    """
    Writes a spool's queue to its file and moves rows back into memory.

    The thread runs from :meth:`open` to :meth:`close`. No method blocks its caller. The callbacks
    run on the thread.

    Args:
        option: The path with its placeholders.
        name: The value of ``{name}``.
        inbox: The inbox, whose queue the thread writes.
        journal: Whether all messages go through the file.
        wake: Called when there are messages to handle.
        on_room: Called when reading from the socket may continue.
        report: Called with a SpoolError, once while the failure lasts.

    Attributes:
        is_open: Whether the file is open.
        epoch: The epoch of the last message in the file when it was opened.
        unfinished: Number of messages that were being handled at the end, which the file contains.

    """

    def __init__(
        self,
        option: str,
        name: str,
        inbox: SpooledInbox,
        *,
        journal: bool,
        wake: Callable[[], None],
        on_room: Callable[[], None],
        report: Callable[[BaseException], None],
    ) -> None:
        self.epoch = 0
        self.unfinished = 0
        self._option = option
        self._name = name
        self._inbox = inbox
        self._journal = journal
        self._wake = wake
        self._on_room = on_room
        self._report = report
        self.is_open = False
        self._file: SpoolFile
        self._closed: Future[int] = Future()
        self._closing = False
        self._must_renew = False  # the file is corrupt, and there is no new one yet
        self._retry_at = 0.0
        self._failed_at = float("-inf")
        # Halved after a failure, because a smaller batch may still fit on a nearly full disk.
        self._most = self._most_removed = BATCH_ROWS

    def open(self) -> Future[None]:
        """
        Open the file on a new thread. If that failed, it may be called again.

        Returns:
            A future that resolves once the file is open, or fails with a SpoolError.

        """
        opened: Future[None] = Future()
        threading.Thread(
            target=self._run, args=(opened,), name="datastream-spool", daemon=True
        ).start()
        return opened

    def close(self) -> Future[int]:
        """
        Write the rest of the queue and close the file, once it is open.

        Returns:
            A future of the number of messages that could not be written. It never resolves if the
            file cannot be opened.

        """
        with self._inbox.changed:
            self._closing = True
            self._inbox.changed.notify_all()
        return self._closed

    def nudge(self) -> None:
        """Make the thread check for work, because the inbox's gate has opened."""
        with self._inbox.changed:
            self._inbox.changed.notify_all()

    # --- the thread ---

    def _run(self, opened: Future[None]) -> None:
        try:
            self._file = self._open_file()
        except BaseException as error:
            opened.set_exception(error)
            return
        self.is_open = True
        opened.set_result(None)
        while not self._closing:
            try:
                self._step()
            except BaseException as death:  # the thread must not end, so report it and retry later
                self._failed(_internal(death))
            self._wait()
        lost = 0
        try:
            with closing(self._file):
                lost = self._finish()
        except BaseException as death:
            self._report(_internal(death))
        self._closed.set_result(lost)

    def _open_file(self) -> SpoolFile:
        file = SpoolFile(path_for(self._option, self._name))
        self.epoch = file.epoch
        self._inbox.opened(file.count, file.size, file.end, file.last)
        if file.set_aside is not None:
            self._report_corrupt(file)
        return file

    def _report_corrupt(self, file: SpoolFile, loss: str = "which keeps its messages") -> None:
        text = f"spool {file.path}: was corrupt and is renamed to {file.set_aside}, {loss}"
        self._report(SpoolError(text))

    def _wait(self) -> None:
        """Wait until there is work to do."""
        inbox, lingered = self._inbox, False
        with inbox.changed:
            while not self._closing and not inbox.may_go_on:
                pause: float | None = self._retry_at - time.monotonic()
                if pause is not None and pause <= 0:
                    if inbox.has_queue or inbox.wants_rows or (inbox.has_removals and lingered):
                        return
                    lingered = inbox.has_removals
                    pause = LINGER_SECONDS if lingered else self._longest_pause
                inbox.changed.wait(pause)

    @property
    def _longest_pause(self) -> float | None:
        """Seconds to wait without a notification. ``None`` means no limit."""
        return LOOK_SECONDS if self._inbox.may_be_silent else None

    def _step(self) -> None:
        if time.monotonic() >= self._retry_at and self._has_file():
            self._write()
            self._trim()
            self._refill_if_wanted()
        if self._inbox.skip_file():
            self._wake()
        if self._inbox.may_read_on():
            self._on_room()

    def _write(self) -> bool:
        """Write the next batch. Return whether there was one and it was written."""
        batch = self._inbox.next_batch(self._most, self._most_removed)
        if not batch.parts and not batch.removals:
            return False
        try:
            self._write_batch(batch)
        except BaseException as error:
            self._inbox.unstorable(batch)
            self._take_fewer(batch)
            if not isinstance(error, SpoolError):
                raise
            self._failed(error)
            return False
        if self._inbox.stored(batch, self._file.size):
            self._wake()
        self._take_more(batch)
        if time.monotonic() - self._failed_at < EPISODE_SECONDS:
            self._file.empty_log()  # otherwise it may grow too large for a nearly full disk
        return True

    def _write_batch(self, batch: WriteBatch) -> None:
        last = None if batch.last is None else self._inbox.row(batch.last)
        self._file.write(self._inbox.runs(batch.parts), batch.removals, last)

    def _take_fewer(self, batch: WriteBatch) -> None:
        if batch.parts:
            self._most = max(1, len(batch) // 2)
        else:
            self._most_removed = max(1, len(batch.removals) // 2)

    def _take_more(self, batch: WriteBatch) -> None:
        if batch.parts:
            self._most = min(BATCH_ROWS, 2 * self._most)
        else:
            self._most_removed = min(BATCH_ROWS, 2 * self._most_removed)

    def _refill_if_wanted(self) -> None:
        wanted = self._inbox.wanted()
        if wanted is None:
            return
        try:
            runs = self._file.read(*wanted)
        except SpoolError as error:
            self._failed(error)
            return
        if runs:
            moved = not self._journal and self._move_out(runs)
            self._inbox.fill(wanted, runs, self._file.size, moved=moved)
            self._wake()
        elif wanted.before is None:
            self._missing()
        else:  # older messages wait in the queue
            self._retry_at = time.monotonic() + RETRY_SECONDS

    def _trim(self) -> None:
        """Drop the oldest rows of a full file, with ``overflow="drop_oldest"``."""
        excess = self._inbox.trim()
        if excess <= 0:
            return
        try:
            runs = self._file.read(*self._inbox.first_rows(excess))
            gone = self._inbox.unread(runs)
            self._file.write([], _positions(gone))
        except SpoolError as error:
            self._failed(error)
            return
        self._inbox.dropped_rows(gone, self._file.size)

    def _move_out(self, runs: Sequence[Run]) -> bool:
        """
        Remove messages before they are handled, so that a crash does not repeat them.

        Return whether they were removed.
        """
        try:
            self._file.write([], _positions(self._inbox.unread(runs)))
        except SpoolError as error:
            self._failed(error)
            return False
        return True

    def _missing(self) -> None:
        lost = self._inbox.lose_file()
        self._wake()
        self._failed(
            SpoolError(f"spool: messages are missing from the file and count as dropped ({lost})")
        )

    def _failed(self, error: SpoolError) -> None:
        now = time.monotonic()
        before, self._failed_at = self._failed_at, now
        self._retry_at = now + RETRY_SECONDS
        if is_corrupt(error):
            self._renew()
        elif now - before > EPISODE_SECONDS:
            self._report(error)

    def _has_file(self) -> bool:
        """Return whether the file can be used, after another attempt to renew a corrupt one."""
        if self._must_renew:
            self._renew()
        return not self._must_renew

    def _renew(self) -> None:
        """Continue with a new file, because this one has become corrupt."""
        try:
            self._file.renew()
        except Exception as error:
            if not self._must_renew:
                self._report(error)
            self._must_renew = True
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        self._must_renew = False
        lost = self._inbox.lose_file()
        self._wake()
        self._report_corrupt(self._file, f"and the messages only in it count as dropped ({lost})")

    def _finish(self) -> int:
        self._failed_at = float("-inf")  # report a failure at the end also
        try:
            if self._has_file():
                while self._write():
                    pass
                # The messages that are still in handlers, because the process may end first.
                self._file.write(self._inbox.runs([self._inbox.in_hand()]), [])
                self.unfinished = self._inbox.counts().waiting
        except Exception as error:
            self._report(error)
        lost = self._inbox.end()
        if lost:
            text = f"spool {self._file.path}: messages not written at exit count as dropped"
            self._report(SpoolError(f"{text} ({lost})"))
        return lost


def _positions(runs: Iterable[Run]) -> list[int]:
    return [position for run in runs for position in run.positions]


def _internal(death: BaseException) -> SpoolError:
    failure = SpoolError(f"spool: internal error, please report it ({type(death).__name__})")
    failure.__cause__ = death
    return failure
