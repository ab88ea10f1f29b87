"""Taking a handler back."""

from __future__ import annotations

from datastream_ws import Client, Handlers, Message

URL = "ws://127.0.0.1:1/"


def test_a_removed_handler_is_not_called_and_the_others_keep_their_order() -> None:
    seen: list[str] = []

    def first(message: Message) -> None:
        seen.append("first")

    def second(message: Message) -> None:
        seen.append("second")

    def third(message: Message) -> None:
        seen.append("third")

    client = Client(URL)
    client.on_message("a")(first)
    client.on_message(second)
    client.on_message("a")(second)
    client.on_message(third)
    client.handlers.remove(second)
    client.deliver({"type": "a"})
    assert seen == ["first", "third"]
    client.handlers.remove(second)  # an unknown one is no error


def test_after_the_last_one_default_handlers_take_over() -> None:
    seen: list[str] = []

    def named(message: Message) -> None:
        seen.append("named")

    client = Client(URL)
    client.on_message("a")(named)

    @client.handlers.on_message(default=True)
    def default(message: Message) -> None:
        seen.append("default")

    client.handlers.remove(named)
    client.deliver({"type": "a"})
    assert seen == ["default"]


def test_hooks_batches_and_followers_forget_it_too() -> None:
    def handler(argument: object) -> None: ...

    shared, own = Handlers(), Handlers()
    own.follow(shared)
    shared.on_message(handler)
    shared.on_batch(10)(handler)
    shared.on_error(handler)
    shared.remove(handler)
    for handlers in (shared, own):
        assert not handlers.has_message_handlers
        assert handlers.batches == ()
        assert handlers.hooks["on_error"] == ()
