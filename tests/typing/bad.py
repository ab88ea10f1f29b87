"""What users get wrong: each line marked so is an error to mypy --strict and to pyright."""

from __future__ import annotations

from dataclasses import dataclass

from datastream_ws import (
    AsyncClient,
    Client,
    ClientOptions,
    DisconnectEvent,
    GapEvent,
    Handlers,
    Message,
    StateEvent,
)


@dataclass
class Flag:
    key: str


def two(ws: object, message: Message) -> None: ...
def nothing() -> None: ...
def text(data: str) -> None: ...
def one(message: Message) -> None: ...
def some(messages: list[str]) -> None: ...
def gap(event: GapEvent) -> None: ...
def lost(event: DisconnectEvent) -> None: ...
def code(code: int) -> None: ...
def typed(flag: Flag) -> None: ...


client = Client("wss://example.com/")
shared = Handlers()

# options
Client("wss://example.com/", pong_timout=5)  # wrong
Client("wss://example.com/", pong_timeout="5")  # wrong
Client("wss://example.com/", overflow="drop-oldest")  # wrong
Client("wss://example.com/", codec="yaml")  # wrong
Client("wss://example.com/", compression="gzip")  # wrong
Client("wss://example.com/", on_open=nothing)  # wrong
Client("wss://example.com/", headers=["Authorization: x"])  # wrong
Client("wss://example.com/", send_rate=5)  # wrong
Client("wss://example.com/", ssl=False)  # wrong
Client("wss://example.com/", max_reconnect_attempts="forever")  # wrong
Client("wss://example.com/", message_handler=two)  # wrong
Client("wss://example.com/", handlers=client)  # wrong
Client(5)  # wrong
AsyncClient("wss://example.com/", concurrency=None)  # wrong
AsyncClient("wss://example.com/", retry=nothing)  # wrong
ClientOptions("wss://example.com/", inbox_sise=5)  # wrong
ClientOptions("wss://example.com/", journal="yes")  # wrong

# handlers
client.on_message(two)  # wrong
client.on_message(nothing)  # wrong
client.on_message("flag")(text)  # wrong
client.on_message(1.5)  # wrong
client.on_message("flag", when=nothing)  # wrong
client.on_message("flag", decode_as=Flag)(one)  # wrong
client.on_message("flag")(typed)  # wrong
client.on_batch(one)  # wrong
client.on_batch(10)(some)  # wrong
client.on_batch("10")  # wrong
client.on_ready(one)  # wrong
client.on_connect(one)  # wrong
client.on_closing(one)  # wrong
client.on_disconnect(code)  # wrong
client.on_disconnect(gap)  # wrong
client.on_state(lost)  # wrong
client.on_gap(nothing)  # wrong
client.on_error(text)  # wrong
client.use(nothing)  # wrong
shared.on_message(two)  # wrong

# facts and verbs
client.options.pong_timeout = 5  # wrong
client.state == "ready" and client.state.upper()  # wrong
client.stats().messages_recieved  # wrong
one(client.last_message)  # wrong


def changed(event: StateEvent) -> str:
    return event.delay  # wrong
