"""
The feed, which sends Schematic DataStream messages and is unreliable on purpose.

::

    python -m example_project.feed --port 9000

It drops its connections every few seconds, in different ways. Prices are numbered, and a client can
request the prices after a number. Prices and flags depend only on the time and the seed. A feed
that was killed continues with the current ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Any

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

PRICE = "shop.Price"  # an entity type that Schematic does not have
PRODUCTS = {"coffee": 1290, "tea": 840, "cocoa": 675, "honey": 1120}  # first prices in cents
FLAGS = ("express-checkout", "gift-wrapping", "reviews", "summer-sale")
FLAG_SECONDS = 2.0  # between two changes
SUPPLIERS = "/suppliers/"  # the beginning of the path of a supplier's stream
STOCK_SECONDS = 2.0  # between two messages of a supplier
KEPT = 20_000  # prices that clients can request


class Market:
    """
    Prices and flags as functions of the time.

    Args:
        began: The UNIX time of the beginning.
        interval: Seconds between two prices.
        seed: The seed of prices and flags.
        limit: The number of the last price. ``None`` means no limit.

    """

    def __init__(self, began: float, interval: float, seed: int, limit: int | None) -> None:
        self.began, self.interval, self.limit = began, interval, limit
        self.sequence = 0  # of the newest price
        self.changes = 0  # of flags
        self.flags = dict.fromkeys(FLAGS, False)
        self._walk, self._coin = Random(seed), Random(seed)
        self._cents = {product: float(cents) for product, cents in PRODUCTS.items()}
        self._prices: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def go_on(self, now: float) -> None:
        """Update prices and flags to this UNIX time."""
        due = int((now - self.began) / self.interval)
        while self.sequence < min(due, self.limit or due):
            self._next_price()
        while self.changes < int((now - self.began) / FLAG_SECONDS):
            self.changes += 1
            key = self._coin.choice(FLAGS)
            self.flags[key] = not self.flags[key]

    def _next_price(self) -> None:
        self.sequence += 1
        product = self._walk.choice(list(PRODUCTS))
        drift = 0.02 * (PRODUCTS[product] / self._cents[product] - 1)
        self._cents[product] *= 1 + self._walk.gauss(drift, 0.006)
        at = self.began + self.sequence * self.interval
        price = {"sequence": self.sequence, "cents": round(self._cents[product]), "at": at}
        self._prices.append({"product": product, **price})

    def prices_after(self, sequence: int) -> list[dict[str, Any]]:
        """Return the prices after a number, oldest first, without those that were dropped."""
        missing = min(self.sequence - sequence, len(self._prices))
        return [self._prices[index] for index in range(-missing, 0)]


@dataclass
class Reader:
    """The requests of a connection, and the last values that it was sent."""

    prices: int | None = None  # number of the last price sent
    flags: dict[str, bool] | None = None  # as they were last sent


class Feed:
    """
    The feed of a market.

    Args:
        market: The market.
        port: The port to listen on. 0 uses a free port.

    Attributes:
        server: The server.

    """

    def __init__(self, market: Market, port: int = 0) -> None:
        self.server = StreamServer(port=port, on_connect=self._send, on_message=self._take)
        self._market = market
        self._readers: dict[int, Reader] = {}

    async def _send(self, connection: Any) -> None:
        """Send new values as long as the connection lasts."""
        reader = self._readers[connection.number] = Reader()
        try:
            if connection.path.startswith(SUPPLIERS):
                await tell_stock(connection)
            while True:
                self._market.go_on(time.time())
                for response in [*self._new_flags(reader), *self._new_prices(reader)]:
                    connection.send(response.to_json())
                await asyncio.sleep(min(self._market.interval, 0.1))
        finally:
            del self._readers[connection.number]

    def _new_flags(self, reader: Reader) -> list[DataStreamResponse]:
        sent, now = reader.flags, dict(self._market.flags)
        if sent is None or sent == now:
            return []
        reader.flags = now
        if not sent:  # the first time, all of them
            return [_response([_flag(*item) for item in now.items()], EntityType.FLAGS)]
        return [_response(_flag(*item), EntityType.FLAG) for item in now.items() - sent.items()]

    def _new_prices(self, reader: Reader) -> list[DataStreamResponse]:
        if reader.prices is None:
            return []
        prices = self._market.prices_after(reader.prices)
        reader.prices = self._market.sequence
        return [_response(price, PRICE) for price in prices]

    def _take(self, connection: Any, data: str | bytes) -> None:
        reader = self._readers[connection.number]
        try:
            asked = json.loads(data)
            if asked["data"]["entity_type"] == PRICE:
                reader.prices = int(asked["data"]["keys"]["after"])
                return
            request = DataStreamRequest.from_json(asked)
        except (DecodeError, ValueError, TypeError, KeyError):
            connection.send(_refusal("not a request").to_json())
            return
        if request.entity_type is EntityType.FLAGS:
            reader.flags = {} if request.action is Action.START else None
        else:
            connection.send(_refusal("entity not found", request.entity_type).to_json())

    # --- drops ---

    def misbehave(self, random: Random) -> None:
        """Drop every connection, in a random way."""
        ways = (self.server.abort, self.server.drop, self._deploy, self._flap)
        random.choice(ways)()

    def _deploy(self) -> None:
        self.server.close(1001, "deploying")

    def _flap(self) -> None:
        """Close every connection, and refuse the next attempts."""
        self.server.refuse(503, times=4)
        self.server.close(1011, "out of order")


async def tell_stock(connection: Any) -> None:
    """Send a supplier's stock as long as the connection lasts."""
    random = Random(connection.path)
    while True:
        connection.send({"type": "stock", "count": random.randrange(1000)})
        await asyncio.sleep(STOCK_SECONDS)


def _flag(key: str, is_on: bool) -> dict[str, Any]:
    return {"id": f"flag_{FLAGS.index(key) + 1}", "key": key, "default_value": is_on}


def _response(data: Any, entity_type: str) -> DataStreamResponse:
    full = entity_type == EntityType.FLAGS
    return DataStreamResponse(data, entity_type, MessageType.FULL if full else MessageType.PARTIAL)


def _refusal(text: str, entity_type: str | None = None) -> DataStreamResponse:
    error = DataStreamErrorMessage(text, entity_type=entity_type)
    return DataStreamResponse(error.to_json(), entity_type or "", MessageType.ERROR)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m example_project.feed")
    add = parser.add_argument
    add(
        "--port", type=int, default=0, help="Port to listen on, or 0 for any free port (default: 0)"
    )
    add("--interval", type=float, default=0.05, metavar="S", help="Seconds between two prices")
    add("--limit", type=int, metavar="N", help="Stop after N prices")
    add("--seed", type=int, default=0, help="Seed of the prices and flags")
    add("--began", type=float, default=time.time(), help="UNIX time of the first price")
    add("--steady", type=float, default=12.0, metavar="S", help="Mean seconds between two drops")
    given = parser.parse_args()

    market = Market(given.began, given.interval, given.seed, given.limit)
    random = Random()
    # Blocked, because the loop below waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    feed = Feed(market, given.port)
    with feed.server:
        print(f"feed on {feed.server.url}", flush=True)
        pause = given.steady / 3  # so that the first drop comes soon
        while not signal.sigtimedwait(ENDS, pause):
            feed.misbehave(random)
            pause = given.steady * random.uniform(0.5, 1.5)


ENDS = {signal.SIGINT, signal.SIGTERM}

if __name__ == "__main__":
    main()
