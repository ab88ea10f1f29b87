"""A registry that follows another: shared handlers, contexts of its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from datastream_ws import Client, Handlers, Message

URL = "ws://127.0.0.1:1/"


def test_what_was_and_will_be_registered_is_followed() -> None:
    shared, own = Handlers(), Handlers()
    seen: list[str] = []
    client = Client(URL, handlers=own)

    @shared.on_message("early")
    def early(message: Message) -> None:
        seen.append("early")

    own.follow(shared)

    @shared.on_message("late")
    def late(message: Message) -> None:
        seen.append("late")

    client.deliver({"type": "early"})
    client.deliver({"type": "late"})
    assert seen == ["early", "late"]


def test_hooks_batches_and_contexts_are_followed() -> None:
    shared, own = Handlers(), Handlers()
    shared.on_error(print)
    shared.use(nullcontext)
    own.follow(shared)
    shared.on_ready(print)
    shared.on_batch(print)
    shared.use(nullcontext, per="run")
    assert [len(own.hooks[kind]) for kind in ("on_error", "on_ready")] == [1, 1]
    assert len(own.batches) == 1
    assert [unit.per for unit in own.context_factories] == ["call", "run"]


def test_what_a_follower_adds_is_its_own() -> None:
    shared, first, second = Handlers(), Handlers(), Handlers()
    seen: list[str] = []

    def context(name: str) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def entered() -> Iterator[None]:
            seen.append(name)
            yield

        return entered

    for name, registry in {"first": first, "second": second}.items():
        registry.use(context(name))
        registry.follow(shared)
    second.on_message(lambda message: seen.append("only second"))
    shared.on_message(lambda message: seen.append("both"))

    Client(URL, handlers=first).deliver("x")
    assert seen == ["first", "both"]
    seen.clear()
    Client(URL, handlers=second).deliver("x")
    assert seen == ["second", "only second", "second", "both"]
    assert not shared.context_factories


def test_followers_may_go() -> None:
    shared, own = Handlers(), Handlers()
    own.follow(shared)
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None
    shared.on_message(print)
