"""The selection of a message's handlers, by route, by condition or by default."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from .codecs import Codec, object_converter, straight_converter
from .messages import Message, undecodable

__all__ = ["Handler", "Routing"]


# A function that makes a handler's ``decode_as`` object, and whether its argument is the payload.
# Otherwise its argument is the result of json().
Converter = tuple[Callable[[Any], Any], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """
    A registered handler or hook.

    Attributes:
        function: The callable.
        is_async: Whether it's a coroutine function.
        route: The route of its messages. ``None`` means every message.
        when: A condition for its messages. ``None`` means no condition.
        default: Whether it gets only messages that match no other handler.
        decode_as: The type of its argument. ``None`` means the message itself.
        max_size: The maximum number of messages in a batch. It's 0 if it isn't a batch handler.
        max_wait: The maximum number of seconds that the first message of a batch waits.
        inline: Whether it's called on the loop's thread when a message is received.

    """

    function: Callable[..., Any]
    is_async: bool
    route: str | int | None = None
    when: Callable[[Message], object] | None = None
    default: bool = False
    decode_as: Any = None
    max_size: int = 0
    max_wait: float = 0.0
    inline: bool = False
    _converters: dict[Codec, Converter] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The module and the qualified name of the callable, for logs."""
        function = self.function
        found = getattr(function, "__qualname__", None) or type(function).__qualname__
        return f"{getattr(function, '__module__', None) or ''}.{found}".lstrip(".")

    @property
    def is_batch(self) -> bool:
        return self.max_size > 0

    @property
    def kind(self) -> str:
        return "batch" if self.is_batch else "message"

    @property
    def is_conditional(self) -> bool:
        """Whether its route isn't enough to decide that it takes a message."""
        return self.when is not None or self.default

    def argument(self, message: Message) -> Any:
        """Return the argument of the callable for *message*. It may raise DecodeError."""
        if self.decode_as is None:
            return message
        convert, is_straight = self._converters.get(message.origin.codec) or self._add(message)
        try:
            return convert(message.data if is_straight else message.json())
        except Exception as error:
            raise undecodable(error, message.data) from None

    def _add(self, message: Message) -> Converter:
        codec = message.origin.codec
        straight = straight_converter(self.decode_as, codec)
        converter = (straight or object_converter(self.decode_as), straight is not None)
        self._converters[codec] = converter
        return converter

    def same_call(self, other: Handler) -> bool:
        """Return whether both call the same function with the same argument."""
        return (
            self.function == other.function
            and self.decode_as is other.decode_as
            and self.is_batch is other.is_batch
        )


# The handlers of a route, and whether any of them has a further condition.
Candidates = tuple[tuple[Handler, ...], bool]


class Routing:
    """
    A lookup of the handlers of a message. It's immutable, so it needs no lock.

    Attributes:
        every: The handlers, if each of them takes every message. ``None`` otherwise.
        all_async: Whether every handler is a coroutine function.
        none_async: Whether every handler is a synchronous function.
        certain: The handlers of each route without a further condition. It's empty if the route
            can be found without decoding the message.

    """

    def __init__(self, handlers: tuple[Handler, ...] = ()) -> None:
        self.handlers = handlers
        self.batches = tuple(each for each in handlers if each.is_batch)
        self.all_async = all(each.is_async for each in handlers)
        self.none_async = not any(each.is_async for each in handlers)
        self.has_routes = any(each.route is not None for each in handlers)
        self._by_route, self._routeless = _filed(handlers)
        conditional = self.has_routes or any(each.is_conditional for each in handlers)
        self.every = None if conditional else self._routeless[0]
        # Whether no handler needs message.json(), so that decoding only the route is enough.
        self._peeks = all(h.decode_as is not None and h.when is None for h in handlers)
        self.certain: dict[str | int | None, tuple[Handler, ...]] = {}
        if not self._peeks and self.every is None:
            found = self._by_route.items()
            self.certain = {route: those for route, (those, unsure) in found if not unsure}

    def match(self, message: Message, taken: bool = False) -> tuple[Handler, ...]:
        """
        Return the handlers of *message*, in order of registration, each once.

        If ``when`` of a handler raises an exception, a function that raises it takes the handler's
        place. It fails like any handler, and the others are called.

        Args:
            message: The message.
            taken: Whether an inline handler has the message, so that ``default`` ones are skipped.

        Raises:
            Exception: Any exception that a callable ``route`` raises.

        """
        if self.every is not None:
            return self.every
        route = message.find_route() if self._peeks else message.route
        candidates, conditional = self._by_route.get(route, self._routeless)
        return _chosen(candidates, message, taken) if conditional else candidates


def _filed(handlers: Iterable[Handler]) -> tuple[dict[str | int | None, Candidates], Candidates]:
    """
    Return the candidates of each registered route, and those of all other routes.

    All other routes share one entry, because a server could fill the memory with new routes.
    """
    by_route: dict[str | int | None, Candidates] = {}
    routeless: Candidates = ((), False)
    for handler in handlers:
        if handler.route is not None:
            by_route[handler.route] = _with(handler, by_route.get(handler.route, routeless))
            continue
        for route, candidates in by_route.items():
            by_route[route] = _with(handler, candidates)
        routeless = _with(handler, routeless)
    return by_route, routeless


def _with(handler: Handler, candidates: Candidates) -> Candidates:
    """Add a handler, unless an unconditional candidate makes the same call."""
    kept, conditional = candidates
    if any(not other.is_conditional and handler.same_call(other) for other in kept):
        return candidates
    return (*kept, handler), conditional or handler.is_conditional


def _chosen(candidates: tuple[Handler, ...], message: Message, taken: bool) -> tuple[Handler, ...]:
    asked = (_asked(handler, message) for handler in candidates if not handler.default)
    chosen = tuple(handler for handler in asked if handler is not None)
    if not chosen and not taken:
        chosen = tuple(handler for handler in candidates if handler.default)
    return _without_repeats(chosen) if len(chosen) > 1 else chosen


def _asked(handler: Handler, message: Message) -> Handler | None:
    """Return the handler if it takes *message*, or a failing one if ``when`` raises."""
    try:
        return handler if handler.when is None or handler.when(message) else None
    except BaseException as error:
        return _failing(handler, error)


def _failing(handler: Handler, error: BaseException) -> Handler:
    def fail(*_: object) -> NoReturn:
        raise error

    # It has the name of the user's function, for logs, counters and dead letters.
    function = functools.wraps(handler.function)(fail)
    return replace(handler, function=function, when=None, decode_as=None, max_size=0)


def _without_repeats(handlers: Iterable[Handler]) -> tuple[Handler, ...]:
    """Return the handlers without those that would repeat the call of another one."""
    kept: list[Handler] = []
    for handler in handlers:
        if not any(handler.same_call(other) for other in kept):
            kept.append(handler)
    return tuple(kept)
