"""A local feed that speaks the Schematic DataStream messages, and is not to be relied on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Any, Self

from datastream_ws import DecodeError
from datastream_ws.schematic import (
    Action,
    DataStreamErrorMessage,
    DataStreamRequest,
    DataStreamResponse,
    EntityType,
    MessageType,
)
from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection

__all__ = ["COMPANY_KEYS", "Feed"]

COMPANY_KEYS = {"id": "acme"}
HEARTBEAT_EVERY = 5  # messages

Connection = StreamConnection
Subscription = tuple[int, EntityType]  # number of the connection, what it asked for


class Feed:
    """
    Flags and a company that change, on a server that drops its connections now and then.

    Args:
        interval: Seconds between two messages.
        seed: The same one gives the same changes and drops; ``None``: others each time.

    """

    def __init__(self, interval: float = 0.25, seed: int | None = None) -> None:
        self._interval = interval
        self._random = Random(seed)
        self._flags = {
            key: {"id": f"flag_{number}", "key": key, "default_value": False}
            for number, key in enumerate(("dark-mode", "exports", "new-checkout"), start=1)
        }
        self._company = {"id": "comp_1", "name": "Acme", "keys": COMPANY_KEYS, "credits": 100}
        self._started: set[Subscription] = set()
        self._server = StreamServer(on_connect=self._stream, on_message=self._answer)

    @property
    def url(self) -> str:
        """What an API would be reached by."""
        return self._server.url.replace("ws:", "http:")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()

    # --- requests ---

    def _answer(self, connection: Connection, data: str | bytes) -> None:
        try:
            request = DataStreamRequest.from_json(json.loads(data))
        except (DecodeError, ValueError):
            connection.send(_error("not a request"))
            return
        subscription = (connection.number, request.entity_type)
        if request.action is Action.STOP:
            self._started.discard(subscription)
            return
        response = self._full(request)
        if response.error is None:
            self._started.add(subscription)
        connection.send(response.to_json())

    def _full(self, request: DataStreamRequest) -> DataStreamResponse:
        if request.entity_type is EntityType.FLAGS:
            return _response(EntityType.FLAGS, MessageType.FULL, list(self._flags.values()))
        if request.entity_type is EntityType.COMPANY and request.keys == COMPANY_KEYS:
            return _response(EntityType.COMPANY, MessageType.FULL, self._company, "comp_1")
        refusal = DataStreamErrorMessage("entity not found", request.keys, request.entity_type)
        return _response(request.entity_type, MessageType.ERROR, refusal.to_json())

    # --- what happens by itself ---

    async def _stream(self, connection: Connection) -> None:
        """Send changes for a while, then drop the connection, each time in another way."""
        for number in range(1, self._random.randint(8, 14)):
            await asyncio.sleep(self._interval)
            if number % HEARTBEAT_EVERY == 0:
                connection.send({"message_type": "heartbeat"})
            else:
                self._send_change(connection)
        self._drop(connection)

    def _send_change(self, connection: Connection) -> None:
        changes: dict[EntityType, Callable[[], DataStreamResponse]] = {
            EntityType.FLAGS: self._changed_flag,
            EntityType.COMPANY: self._changed_company,
        }
        asked_for = [each for each in changes if (connection.number, each) in self._started]
        if asked_for:
            connection.send(changes[self._random.choice(asked_for)]().to_json())

    def _changed_flag(self) -> DataStreamResponse:
        flag = self._flags[self._random.choice(sorted(self._flags))]
        flag["default_value"] = not flag["default_value"]
        changed = {name: flag[name] for name in ("key", "default_value")}
        return _response(EntityType.FLAG, MessageType.PARTIAL, changed, str(flag["id"]))

    def _changed_company(self) -> DataStreamResponse:
        self._company["credits"] = self._random.randint(0, 100)
        changed = {"credits": self._company["credits"]}
        return _response(EntityType.COMPANY, MessageType.PARTIAL, changed, "comp_1")

    def _drop(self, connection: Connection) -> None:
        ways: list[Callable[[], None]] = [
            lambda: connection.close(1001, "deploying"),
            lambda: connection.close(1012, "restarting"),
            connection.abort,
        ]
        self._random.choice(ways)()


def _response(
    entity_type: EntityType, message_type: MessageType, data: Any, entity_id: str | None = None
) -> DataStreamResponse:
    return DataStreamResponse(data, entity_type, message_type, entity_id)


def _error(text: str) -> dict[str, Any]:
    error = DataStreamErrorMessage(text)
    return DataStreamResponse(error.to_json(), "", MessageType.ERROR).to_json()
