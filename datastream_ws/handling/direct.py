"""Call handlers with as little overhead per message as possible, and time the calls."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ..handlers import Handler, Handlers
from ..messages import Message
from ..routing import Routing
from .callers import drive
from .contexts import HandlerRun
from .timing import QUICK_SECONDS

__all__ = ["DirectCalls"]

LONGEST_STRIDE = 32  # most quick messages between two clock readings
FEW_ROUTES = 50  # with more, few routes repeat in a run, so compiling each would not pay off


NO_ROUTING = Routing()

# Takes a message; returns the handlers that it called, if it can name them.
Function = Callable[..., Any]

# The handlers of each route that alone determines them.
Certain = Mapping[Any, Sequence[Handler]]

# A route's single handler, the function that calls it, and the handler as a tuple.
Entry = tuple[Handler, Function, tuple[Handler]]


class DirectCalls:
    """
    The functions that call each message's handlers, without retries or batches.

    Used only where :meth:`Handlers.is_direct` holds. An instance belongs to one thread or task. It
    may serve several runs that have no run contexts.

    Args:
        find: Returns the handlers of a message.
        routing: The routing table, if *find* consults nothing else.
        note: Called with a handler and the seconds of its first call, and of each slow call.
            ``None`` adds them to the run's notes.
        only: The handler, if a single one takes every message undecoded and its calls need no
            individual timing.

    Attributes:
        call: Takes a message and calls its handlers. Raises what a handler, ``route`` or ``when``
            raises. Returns the handlers, unless there is an *only* one.
        timed: As *call*, and measures each handler. Used for the first message of a run, and after
            a slow one.
        awaited: Whether the results of *call* and *timed* are to be awaited.
        notes: The notes of the run.
        entries: The calls of each route that has arrived and has a single handler.
        next: The function for the next messages, and how many of them come before the next clock
            reading.
        since: When the call that is being timed began, of ``time.monotonic()``.

    """

    def __init__(
        self,
        handlers: Handlers,
        run: HandlerRun,
        find: Callable[[Message], Sequence[Handler]],
        routing: Routing = NO_ROUTING,
        *,
        note: Callable[[Handler, float], None] | None = None,
        only: Handler | None = None,
    ) -> None:
        assert run.notes is not None
        self.run = run
        self.awaited = run.caller.on_loop
        self.notes = run.notes
        self._note = note or self.notes.note
        self._find = find
        self._is_entered = not handlers.has_contexts("run")
        self._is_bare = self._is_entered and not handlers.has_contexts("call")
        self._stride: int
        self._matched: Sequence[Handler] = ()
        self._only = only
        self._functions: dict[Handler, Function] = {}
        self.entries: dict[Any, Entry] = {}
        self._is_by_route = False
        self._unsettled: Handler | None = None  # called, and the duration isn't measured yet
        self.since, self._limit = time.monotonic(), QUICK_SECONDS
        self.call, self.timed = self._ways(routing)
        self.either = self.call, self.timed
        self.next: tuple[Function, int]
        self.begin_run()

    def _ways(self, routing: Routing) -> tuple[Function, Function]:
        only, every = self._only, routing.every or ()
        if only is not None:
            self._matched = (only,)
            return self.run.compiled(only), self._await_only if self.awaited else self._call_only
        certain = routing.certain
        if self.awaited:
            call = self._awaiting_by_route(certain) if certain else self._await_all
            return call, self._await_timed
        if len(every) == 1 and self._is_entered:
            return self._compiled(every[0]), self._call_timed
        if len(certain) > FEW_ROUTES:
            return self._one_by_one(certain), self._call_timed
        return self._by_route(certain) if certain else self._call, self._call_timed

    def begin_run(self) -> None:
        """Time the first call. With an *only* handler, nothing else says which one is called."""
        self.run.handler = self._only
        self.next = self.timed, 1
        self._stride = 1  # calls that were quick before a rest may be slow after it

    @property
    def rest(self) -> Sequence[Handler] | None:
        """
        The handlers still to be called, beginning with the one that failed.

        ``None`` means that finding the handlers has failed, so they are unknown.
        """
        matched, handler = self._matched, self.run.handler
        if handler is None or handler not in matched:
            return None
        return matched[matched.index(handler) :]

    # --- one handler that is given every message ---

    def _call_only(self, message: Message) -> None:
        started = time.monotonic()
        try:
            self._enter()  # the first call of a run is always timed
            self.call(message)
        finally:
            self._note_only(time.monotonic() - started)

    async def _await_only(self, message: Message) -> None:
        started = time.monotonic()
        try:
            await self._enter_on_loop()  # the first call of a run is always timed
            await self.call(message)
        finally:
            self._note_only(time.monotonic() - started)

    def _note_only(self, seconds: float) -> None:
        assert self._only is not None
        self.notes.timed.append((self._only, seconds))

    def note(self, messages: int) -> None:
        """Record that *messages* messages were passed to handlers."""
        if self._only is None:  # their calls are recorded one by one, see Notes.called
            self._settle()
            self.next = self.timed, 1  # the next portion may begin with another route
        else:  # these calls are not recorded one by one
            self.notes.add_up_only(self._only, messages)

    def after_stride(self, seconds: float, messages: int) -> tuple[Callable[[Message], Any], int]:
        """
        Choose the function for the next messages, and their number before the next clock reading.

        Args:
            seconds: The duration of the stride that has ended.
            messages: The number of messages in it.

        """
        if seconds < QUICK_SECONDS:
            self._stride = min(2 * self._stride, LONGEST_STRIDE)
            self.next = self.call, self._stride
        else:
            self.note_stride(seconds, messages)
            self._stride = 1
            self.next = self.timed, 1
        return self.next

    def note_stride(self, seconds: float, messages: int) -> None:
        """
        Record the slow call among *messages* calls that took *seconds* in total.

        A stride of one message is skipped, because its call was timed.
        """
        self._note_slow(seconds, messages if messages > 1 else 0)

    def note_between(self, seconds: float, messages: int) -> None:
        """
        Record the slow call in a stride whose last call was timed; *seconds* includes that call.
        """
        timed = self.notes.timed
        self._note_slow(seconds - timed[-1][1] if timed else seconds, messages - 1)

    def note_rest(self, seconds: float, messages: int) -> None:
        """Record the slow call in a stride without any timed call."""
        self._note_slow(seconds, messages)

    def _note_slow(self, seconds: float, untimed: int) -> None:
        if self._only is None or untimed < 1 or seconds < QUICK_SECONDS:
            return
        timed = self.notes.timed
        usual = min(timed[-1][1], QUICK_SECONDS) if timed else 0.0
        timed.append((self._only, max(usual, seconds - (untimed - 1) * usual)))

    # --- several handlers ---

    def _call(self, message: Message) -> Sequence[Handler]:
        return self.call_all(message, self._found(message))

    def _found(self, message: Message) -> Sequence[Handler]:
        self.run.handler = None  # finding them may fail
        matched = self._find(message)
        if self._limit < 0:  # exclude the time that finding the handlers took
            self.since = time.monotonic()
        return matched

    def call_all(self, message: Message, handlers: Sequence[Handler]) -> Sequence[Handler]:
        """Call these synchronous handlers one after the other, and return them."""
        try:
            for handler in handlers:
                (self._functions.get(handler) or self._compiled(handler))(message)
        except BaseException:
            self._matched = handlers
            raise
        return handlers

    def _call_timed(self, message: Message) -> Sequence[Handler]:
        self._begin_timing(message)
        try:
            called: Sequence[Handler] = self.call(message)
            return called
        finally:
            self._limit = QUICK_SECONDS

    def _begin_timing(self, message: Message) -> None:
        if self._is_by_route:
            self.run.handler = None  # finding the route may fail
            message.decoded_route()  # stored in the message, so the time of the call excludes it
        self.since, self._limit = time.monotonic(), -1.0

    # Closures, because attribute lookups would be paid for every message.

    def _by_route(self, certain: Certain) -> Function:
        """Return :meth:`_call` for messages whose route alone determines their handlers."""
        run, clock, several = self.run, time.monotonic, self._call
        count, note = self.notes.called.append, self._note
        known, new = self.entries.get, self._new_entries(certain)

        def call_by_route(message: Message) -> Sequence[Handler]:
            run.handler = None  # finding the route may fail
            route = message.decoded_route()
            entry = known(route) or new(route)
            if entry is None:
                return several(message)
            handler, function, alone = entry
            run.handler = handler
            count(handler)
            try:
                function(message)
            except BaseException:
                self._matched = alone
                raise
            finally:
                now = clock()
                if now - self.since > self._limit:
                    note(handler, now - self.since)
                self.since = now
            return alone

        return call_by_route

    def _new_entries(self, certain: Certain) -> Callable[[Any], Entry | None]:
        """Return a function that adds the entry of a route, if the route has a single handler."""
        self._is_by_route = True

        def new(route: Any) -> Entry | None:
            # Other routes come from the server and aren't stored: they could exhaust memory.
            found = certain.get(route)
            if found is None or len(found) > 1:
                return None
            if self.awaited and not self._is_entered:
                return None  # _await_all() enters the contexts first
            handler = self.run.handler = found[0]
            self._matched = alone = (handler,)
            self._enter()
            entry = self.entries[route] = handler, self._function_of(handler), alone
            return entry

        return new

    def _one_by_one(self, certain: Certain) -> Function:
        """Return :meth:`_call` without compiling a function per handler."""
        self._is_by_route = True
        run, find, known, clock = self.run, self._find, certain.get, time.monotonic
        count, note, is_bare = self.notes.called.append, self._note, self._is_bare

        def call(message: Message) -> Sequence[Handler]:
            run.handler = None  # finding them may fail
            matched = self._matched = known(message.decoded_route()) or find(message)
            for handler in matched:
                run.handler = handler
                count(handler)
                try:
                    if is_bare and handler.decode_as is None:
                        handler.function(message)
                    else:
                        self._enter()
                        self._function_of(handler)(message)
                finally:
                    now = clock()
                    if now - self.since > self._limit:
                        note(handler, now - self.since)
                    self.since = now
            return matched

        return call

    def _compiled(self, handler: Handler) -> Function:
        """
        Return a function that calls a synchronous handler with a message and records the call.
        """
        run, clock, count, note = self.run, time.monotonic, self.notes.called.append, self._note
        run.handler = handler
        alone = self._matched = (handler,)
        self._enter()
        function = self._function_of(handler)

        def noted(message: Message) -> Sequence[Handler]:
            run.handler = handler
            count(handler)
            try:
                function(message)
            except BaseException:
                self._matched = alone
                raise
            finally:
                before, self.since = self.since, clock()
                if self.since - before > self._limit:
                    note(handler, self.since - before)
            return alone

        self._functions[handler] = noted
        return noted

    def _function_of(self, handler: Handler) -> Callable[[Message], Any]:
        """
        Return a handler within its ``per="call"`` contexts, as a function of a message.
        """
        if handler.is_async or handler.decode_as is None:
            return self.run.compiled(handler)
        enclosed, argument = self.run.enclosed(handler), handler.argument
        return lambda message: enclosed((message,), argument(message))

    def _enter(self) -> None:
        if not self._is_entered:
            drive(self.run.enter())
            self._is_entered = True

    # --- coroutine functions ---

    async def _enter_on_loop(self) -> None:
        if not self._is_entered:
            await self.run.enter()
            self._is_entered = True

    async def _await_all(self, message: Message) -> None:
        run, clock, count = self.run, time.monotonic, self.notes.called.append
        matched = self._matched = self._found(message)
        for handler in matched:
            run.handler = handler
            count(handler)
            try:
                await self._enter_on_loop()
                await self._awaiting(handler)(message)
            finally:
                before, self.since = self.since, clock()
                if self.since - before > self._limit:
                    self._note(handler, self.since - before)

    def _awaiting(self, handler: Handler) -> Function:
        function = self._functions.get(handler)
        if function is None:
            function = self._functions[handler] = self._function_of(handler)
        return function

    async def _await_timed(self, message: Message) -> None:
        self._settle()
        self._begin_timing(message)
        try:
            await self.call(message)
        finally:
            self._settle()
            self._limit = QUICK_SECONDS

    def _awaiting_by_route(self, certain: Certain) -> Function:
        """
        Return a function that calls the coroutine handler of a message's route.

        It returns the handler's own coroutine, because another one around it would slow down every
        message. The duration of a call is therefore measured when the next call begins, or by
        :meth:`_settle`.
        """
        run, clock, several = self.run, time.monotonic, self._await_all
        count = self.notes.called.append
        known, new = self.entries.get, self._new_entries(certain)

        def call_by_route(message: Message) -> Awaitable[object]:
            now = clock()
            if now - self.since > self._limit:
                self._settle()
            self.since = now
            self._unsettled = run.handler = None
            route = message.decoded_route()
            entry = known(route) or new(route)
            if entry is None:
                return several(message)
            handler, function, self._matched = entry
            self._unsettled = run.handler = handler
            count(handler)
            awaited: Awaitable[object] = function(message)
            return awaited

        return call_by_route

    def _settle(self) -> None:
        """Record the last call if it was slow, unless it was recorded before."""
        handler, self._unsettled = self._unsettled, None
        seconds = time.monotonic() - self.since
        if handler is not None and seconds > self._limit:
            self._note(handler, seconds)
