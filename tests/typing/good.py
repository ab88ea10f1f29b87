"""What users write: mypy --strict and pyright have nothing to say about it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, assert_type

from datastream_ws import (
    AsyncClient,
    Client,
    ClientOptions,
    Codec,
    DisconnectEvent,
    GapEvent,
    Handlers,
    Message,
    StateEvent,
)
from datastream_ws.handlers import Call
from datastream_ws.options import Options


@dataclass
class Flag:
    key: str
    value: bool = False


class Upper:
    def decode(self, data: str | bytes) -> Any:
        return str(data).upper()

    def encode(self, obj: Any) -> str | bytes:
        return str(obj)


async def token() -> dict[str, str]:
    return {"Authorization": "Bearer x"}


handlers = Handlers()
codec: Codec = Upper()
Client("wss://example.com/stream")
Client(["wss://a.example/", "ws+unix:///run/feed.sock:/stream"], ssl=True)
Client(lambda: "wss://example.com/", headers=token, subprotocols=lambda: ["graphql-ws"])
Client(url="wss://example.com/", overflow="drop_oldest", codec="orjson", compression=None)
Client(ClientOptions("wss://example.com/", pong_timeout=None), name="prices")
AsyncClient("wss://a.example/", send_rate=(5, 1.0), idle_timeout=30, codec=codec)
client = Client(
    "wss://example.com/",
    handlers=handlers,
    ssl=ssl.create_default_context(),
    proxy=None,
    retry=lambda error: isinstance(error, OSError),
    conflate=lambda message: message.route,
    route=lambda message: message.json()["op"],
)
some: Options = {"name": "prices", "concurrency": 4}
Client("wss://example.com/", **some)


@client.on_message
def every(message: Message) -> None:
    assert_type(message.route, str | int | None)


@client.on_message("flag")
async def flag(message: Message) -> int:
    return message.seq


@client.on_message(10, inline=True)
def ping(message: object) -> None: ...


@client.on_message(when=lambda message: message.is_text)
@client.on_message("both")
def with_more(message: Message, retries: int = 3) -> str:
    return str(retries)


@client.on_message("flag", decode_as=Flag)
def decoded(flag: Flag) -> str:
    return flag.key


@client.on_batch
def batch(messages: list[Message]) -> None: ...


@client.on_batch(10, max_wait=1, route="tick")
async def ticks(messages: Sequence[Message]) -> None: ...


@client.on_connect
@client.on_ready
@client.on_closing
async def hello() -> None: ...


@client.on_disconnect
def lost(event: DisconnectEvent) -> None:
    assert_type(event.code, int)


@client.on_gap
def gap(event: GapEvent) -> None:
    assert_type(event.seconds, float)


@client.on_state
def state(event: StateEvent) -> None: ...


@client.on_error
def failed(error: BaseException) -> None: ...


@contextmanager
def told(call: Call) -> Iterator[None]:
    yield


client.use(told)
client.use(nullcontext, per="run")
handlers.on_message(every)

# What a decorator returns is what it was given.
assert_type(with_more(client.request("x", bool), retries=1), str)
assert_type(decoded(Flag("x")), str)

with client as running:
    assert_type(running, Client)
