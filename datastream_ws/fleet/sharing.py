"""
Share a fleet's streams with other processes on a thread that joins, renews, takes and releases.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from ..exceptions import LeaseError
from ..lease.clock import clock
from ..lease.renewal import LIFE, LOOK, LOOK_SECONDS, RENEWAL_SHARE, TENURE
from ..lease.shared import MemberRecord, SharedStore, SharedView
from ..lease.store_calls import HANG_SECONDS, StoreCalls, lease_error
from .holding import Holding, Term
from .membership import IN_FLIGHT, LocalState, Membership, Plan
from .summary import counted

__all__ = ["Sharing"]

BUSY_SECONDS = 0.1  # most between two steps while streams move


class Sharing:
    """
    The streams of a fleet that this process holds. Public methods are thread-safe.

    All tenures end at one deadline on this machine's clock, counted from before the last renewal
    was sent. That holds even if the store or the thread hangs.

    Args:
        ttl: Seconds within which a dead process's streams connect elsewhere.
        limit: Maximum number of streams that this process takes. ``None`` means no limit.
        room: Returns how many more streams may be taken now, because taken streams should connect
            soon. Called on the thread.
        in_flight: Maximum number of streams in flight to one process.
        on_change: Called on the thread when facts have changed.
        report: Receives each LeaseError, on the thread. A lasting error is reported once.

    """

    def __init__(
        self,
        store: SharedStore,
        ttl: float,
        *,
        limit: int | None,
        room: Callable[[], int],
        on_change: Callable[[], None],
        report: Callable[[BaseException], None],
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._limit = limit
        self._room = room
        self._on_change = on_change
        self._report = report
        self._id = f"{socket.gethostname()[:80]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._terms = 0
        self._term = self._new_term()
        self._is_member = False
        self._listed: set[str] = set()  # tokens of this process that the store may list
        self._beat = 0
        self._renew_at = 0.0
        self._take_from = 0.0
        self._in_flight = in_flight
        self._membership = Membership(in_flight)
        self._view = SharedView({}, {})
        self._plan = Plan()
        self._has_handed_over = False
        self._calls = StoreCalls(report)
        # The condition guards the following attributes, which the loop's thread uses, too.
        self._changed = threading.Condition()
        self._news = False
        self._keys: frozenset[str] = frozenset()
        self._held: dict[str, Holding] = {}
        self._giving: set[str] = set()
        self._to_release: dict[str, Holding] = {}
        self._to_take_again: dict[str, Holding] = {}
        self._leaving = False
        self._closing = False
        self._abandoned = False
        self._closed: Future[None] = Future()

    # --- facts ---

    def held(self) -> dict[str, Holding]:
        """Return the held streams by key. The result is empty once the term has ended."""
        with self._changed:
            return dict(self._held) if self._term.left > 0 else {}

    def giving(self) -> set[str]:
        """Return the keys of streams that must be closed and handed over."""
        with self._changed:
            return set(self._giving)

    def owner(self, key: str) -> str | None:
        """
        Return ``host:pid`` of the process that holds a stream, according to the last view.

        ``None`` means that no living process holds it.
        """
        view = self._view
        held = view.holders.get(key)
        return None if held is None or held.token not in view.members else _process(held.token)

    @property
    def processes(self) -> list[str]:
        """``host:pid`` of every process that shares the fleet, including this one."""
        return sorted(_process(token) for token in self._view.members)

    @property
    def beyond_limit(self) -> int:
        """How many streams run nowhere because no process has room for them."""
        return self._plan.beyond_limit if self._is_member else 0

    @property
    def limits(self) -> list[int]:
        """The limits of the processes that take streams, without those that have no limit."""
        members = self._view.members.values()
        return [each.limit for each in members if each.limit is not None and not each.is_leaving]

    @property
    def is_settled(self) -> bool:
        return self._is_member and self._plan.is_settled

    @property
    def is_handing_over(self) -> bool:
        """Whether other processes can still take the streams of this process, which is leaving."""
        is_able = self._is_member and self._calls.failed_for < HANG_SECONDS
        return self._leaving and is_able and not self._has_handed_over

    def report_hang(self) -> None:
        """
        Report a store that blocks the thread while no stream is held; call it on the loop's thread.
        """
        waited = self._calls.waited
        if waited >= HANG_SECONDS and self._term.left <= 0:
            self._calls.report_hang(waited)

    # --- requests of the fleet ---

    def start(self) -> None:
        threading.Thread(target=self._run, name="datastream-fleet", daemon=True).start()

    def want(self, keys: Collection[str]) -> None:
        """Share the streams with these keys from now on."""
        found = frozenset(keys)
        with self._changed:
            if found != self._keys:
                self._keys = found
                self._wake()

    def release(self, key: str, holding: Holding) -> None:
        """Release a stream whose client has ended."""
        with self._changed:
            self._to_release[key] = holding
            self._wake()

    def take_again(self, key: str, holding: Holding) -> None:
        """Begin another tenure of a held stream whose client has ended."""
        with self._changed:
            self._to_take_again[key] = holding
            self._wake()

    def leave(self) -> None:
        """Hand over all streams to the remaining processes, and take no more."""
        with self._changed:
            self._leaving = True
            self._renew_at = 0.0
            self._wake()

    def close(self) -> Future[None]:
        """
        Request the release of all streams; the returned future is done when the thread has ended.
        """
        with self._changed:
            self._closing = True
            self._wake()
        return self._closed

    def abandon(self) -> None:
        """
        Stop renewing without releasing, because user code blocks the loop that would close clients.

        The tenures expire.
        """
        self._abandoned = True
        self.close()

    def _wake(self) -> None:
        self._news = True
        self._changed.notify_all()

    # --- the thread ---

    def _run(self) -> None:
        while not self._closing:
            try:
                pause = self.step()
            except BaseException as death:  # the thread must not end unnoticed
                pause = self._pause()
                with suppress(BaseException):
                    self._calls.report_once(lease_error("internal error, please report it", death))
            self._sleep(pause)
        self._end()

    def step(self) -> float:
        """Renew the membership if it's time, and adjust the streams. Return the seconds to wait."""
        self._news = False
        if self._is_member and self._term.left <= 0:
            self._end_term("it could not be renewed in time")
        if not self._is_member:
            self._join()
        elif clock() >= self._renew_at:
            self._renew()
        if self._is_member:
            self._take_part()
        return self._pause()

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._closing, seconds)

    def _pause(self) -> float:
        longest = min(LOOK_SECONDS, self._ttl * LOOK)
        if self._is_member and not (self._plan.is_settled or self._calls.is_failing):
            longest = min(BUSY_SECONDS, longest)
        return random.uniform(0.4, 1.0) * longest

    def _end(self) -> None:
        held = self._take_all()
        try:
            if not self._abandoned:
                self._term.deadline = float("-inf")
                for token in self._listed:
                    self._calls.ask(partial(self._store.leave, token))
            self._calls.ask(self._store.close)
        finally:
            for holding in held:
                holding.end()
            self._closed.set_result(None)

    # --- the membership ---

    def _new_term(self) -> Term:
        self._terms += 1
        return Term(f"{self._id}:{self._terms}", self._ttl * (LIFE - TENURE))

    def _record(self) -> MemberRecord:
        self._beat += 1
        return MemberRecord(
            token=self._term.token,
            beat=self._beat,
            life=self._ttl * LIFE,
            limit=self._limit,
            is_leaving=self._leaving,
        )

    def _join(self, held: dict[str, int] | None = None) -> None:
        """
        Become a member.

        Args:
            held: The epochs, by key, of the streams held in a store that has lost its data.
                ``None`` means a new term.

        """
        asked = clock()
        token = self._term.token
        self._listed.add(token)
        replaces = token if held else f"{self._id}:{self._terms - 1}"
        kept = self._calls.ask(lambda: self._store.join(self._record(), replaces, held or {}) or ())
        if kept is None or clock() >= asked + self._ttl * TENURE:
            return
        self._is_member = True
        self._listed = {token}
        self._extend(asked)
        # Processes that join at the same time must see each other before they take streams.
        self._take_from = clock() + min(LOOK_SECONDS, self._ttl * LOOK)
        self._lose(set(held or ()) - set(kept))

    def _renew(self) -> None:
        asked = clock()
        renewed = self._calls.ask(lambda: self._store.renew(self._record()))
        if renewed is None:  # no response: retry while there is time
            self._renew_at = clock() + min(0.5, self._ttl / 20)
        elif self._store.has_lost_data:
            self._put_back()
        elif not renewed:
            self._end_term("another process considers this one dead")
        elif self._term.left > 0:  # a response after the deadline does not count
            self._extend(asked)

    def _extend(self, asked: float) -> None:
        self._term.deadline = asked + self._ttl * TENURE
        self._renew_at = asked + self._ttl * RENEWAL_SHARE

    def _put_back(self) -> None:
        """Join again with the held streams, because the store has lost its data."""
        if self._term.left > 0:
            self._join({key: holding.epoch for key, holding in self._held.items()})

    def _end_term(self, why: str) -> None:
        self._term.deadline = float("-inf")
        lost = self._take_all()
        self._is_member = False
        self._term = self._new_term()
        self._membership = Membership(self._in_flight)
        for holding in lost:
            holding.end()
        if lost:
            text = f"lease lost: {why}; {counted(len(lost))} can start in other processes"
            self._report(LeaseError(text))
        self._on_change()

    def _take_all(self) -> list[Holding]:
        """Forget all held streams, and return them."""
        with self._changed:
            lost, self._held = list(self._held.values()), {}
            self._giving.clear()
            self._to_release.clear()
            self._to_take_again.clear()
        return lost

    # --- the streams ---

    def _take_part(self) -> None:
        self._release_ended()
        self._take_ended_again()
        view = self._calls.ask(self._store.look)
        if view is None:
            return
        if self._store.has_lost_data:
            self._put_back()
            return
        if self._term.token not in view.members:
            self._end_term("another process considers this one dead")
            return
        self._view = view
        is_leaving = view.members[self._term.token].is_leaving
        for member in self._membership.dead(view, self._term.token):
            self._calls.ask(partial(self._store.remove, member))
        plan = self._membership.plan(view, self._local_state())
        self._has_handed_over = is_leaving and plan.is_done
        self._follow(plan)

    def _local_state(self) -> LocalState:
        with self._changed:
            unused = sum(not holding.is_used for holding in self._held.values())
            held = {key: holding.epoch for key, holding in self._held.items()}
            giving = set(self._giving)
        room = self._room() - unused if clock() >= self._take_from else 0
        return LocalState(self._term.token, self._keys, held, giving, room)

    def _follow(self, plan: Plan) -> None:
        was_settled = self._plan.is_settled
        self._plan = plan
        self._lose(plan.lost)
        if plan.release:
            self._release(plan.release)
        if plan.take and not self._leaving:
            self._membership.taken(self._take(plan.take), self._view)
        with self._changed:
            self._giving |= {key for key in plan.give if key in self._held}
        if plan.give or plan.is_settled != was_settled or self._leaving:
            self._on_change()

    def _take(self, keys: Collection[str]) -> Collection[str]:
        token, dead = self._term.token, _dead(self._view)
        answer = self._calls.ask(partial(self._store.take, token, keys, dead))
        if answer is None or not self._term.left > 0:
            return ()
        epoch, taken = answer
        if taken:
            with self._changed:
                self._held |= {key: Holding(self._term, epoch) for key in taken}
            self._on_change()
        return taken

    def _release(self, keys: Collection[str]) -> bool:
        """Release streams in the store; return whether it responded."""
        token, dead = self._term.token, _dead(self._view)
        self._calls.ask(partial(self._store.release, token, keys, dead))
        return not self._calls.is_failing

    def _release_ended(self) -> None:
        keys = self._still_held(self._to_release)
        if keys and self._release(keys):
            with self._changed:
                given = self._giving.intersection(keys)
                self._giving -= given
                for key in keys:
                    self._held.pop(key).end()
                    self._to_release.pop(key, None)
            self._membership.offered(given)

    def _take_ended_again(self) -> None:
        keys = self._still_held(self._to_take_again)
        if not keys:
            return
        taken = self._take(keys)
        if not self._calls.is_failing:
            self._lose(set(keys).difference(taken))

    def _still_held(self, asked: dict[str, Holding]) -> list[str]:
        """Remove the entries whose tenure has ended from *asked*; return the keys of the others."""
        with self._changed:
            for key in [key for key in asked if self._held.get(key) is not asked[key]]:
                del asked[key]
            return list(asked)

    def _lose(self, keys: Collection[str]) -> None:
        """End the tenures of streams that another process holds according to the store."""
        with self._changed:
            lost = [self._held.pop(key) for key in keys if key in self._held]
            self._giving -= set(keys)
        for holding in lost:
            holding.end()
        if lost:
            text = f"lease lost: other processes run {counted(len(lost))} that ran here"
            self._report(LeaseError(text))
            self._on_change()


def _dead(view: SharedView) -> list[str]:
    return sorted({held.token for held in view.holders.values()} - view.members.keys())


def _process(token: str) -> str:
    return token.rsplit(":", 2)[0]
