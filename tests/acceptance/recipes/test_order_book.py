"""docs/recipes/order-book.md against an exchange that follows Binance's description."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from datastream_ws.testing import StreamServer
from datastream_ws.testing.connection import StreamConnection
from kit.recipes import Recipe, answering, kill
from kit.seen import eventually

STREAM, API = "wss://stream.binance.com:9443", "https://api.binance.com/"
SYMBOLS = [f"SYM{number}USDT" for number in range(12)]


class Exchange:
    """Twelve books. It closes with 1008 when more than five messages come within a second."""

    def __init__(self) -> None:
        self.server = StreamServer(on_message=self.take)
        self.books: dict[str, dict[str, Any]] = {
            symbol: {"last": 10, "b": {"9.0": "1", "9.5": "1"}, "a": {"10.0": "1"}}
            for symbol in SYMBOLS
        }
        self.subscribed: dict[StreamConnection, list[str]] = defaultdict(list)
        self.times: dict[StreamConnection, list[float]] = defaultdict(list)
        self.snapshots: list[str] = []
        self.old: list[dict[str, Any]] = []  # snapshots from before, answered first

    def take(self, connection: StreamConnection, data: str | bytes) -> None:
        now = time.monotonic()
        self.times[connection] = [at for at in self.times[connection] if at > now - 1.0] + [now]
        if len(self.times[connection]) > 5:
            connection.close(1008, "Too many requests")
            return
        message = json.loads(data)
        [stream] = message["params"]
        self.subscribed[connection].append(stream.removesuffix("@depth@100ms").upper())
        connection.send({"result": None, "id": message["id"]})

    def snapshot(self, path: str, headers: object) -> dict[str, Any]:
        [symbol] = parse_qs(urlsplit(path).query)["symbol"]
        self.snapshots.append(symbol)
        book = self.old.pop(0) if self.old else self.books[symbol]
        sides = {"bids": list(book["b"].items()), "asks": list(book["a"].items())}
        return {"lastUpdateId": book["last"], **sides}

    def change(self, symbol: str, bid: str, amount: str, *, is_sent: bool = True) -> None:
        """Change a bid; an update of two numbers, which only connections there are see."""
        book = self.books[symbol]
        event = {"e": "depthUpdate", "s": symbol, "U": book["last"] + 1, "u": book["last"] + 2}
        book["last"] += 2
        book["b"][bid] = amount
        if not float(amount):
            del book["b"][bid]
        for connection, symbols in self.subscribed.items():
            if is_sent and connection.is_open and symbol in symbols:
                connection.send(event | {"b": [[bid, amount]], "a": []})

    def is_copied(self, books: dict[str, Any], *symbols: str) -> bool:
        return all(books.get(symbol) == self.books[symbol] for symbol in symbols)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = Exchange()
    with exchange.server:
        yield exchange


@pytest.fixture
def fill(exchange: Exchange) -> Iterator[dict[str, str]]:
    known = '"BTCUSDT", "ETHUSDT", "BNBUSDT"'
    with answering(exchange.snapshot) as url:
        yield {STREAM: exchange.server.url, API: url, known: ", ".join(map(repr, SYMBOLS))}


def test_books_over_three_losses(exchange: Exchange, fill: dict[str, str]) -> None:
    """The books are the exchange's after each loss; every subscription once, five a second."""
    server = exchange.server
    with Recipe("order-book", fill) as recipe:
        books = recipe.module.books
        for number in recipe.connections(server.abort, server.drop, lambda: kill(server)):
            eventually(lambda: len(exchange.subscribed[server.connections[-1]]) == len(SYMBOLS))
            for symbol in SYMBOLS:
                exchange.change(symbol, "9.6", str(number))
            eventually(lambda: exchange.is_copied(books, *SYMBOLS))
            exchange.change(SYMBOLS[0], "9.7", str(number), is_sent=False)
        expected = SYMBOLS + 3 * SYMBOLS[:1]  # only that one has missed something
        assert sorted(exchange.snapshots) == sorted(expected)
    assert list(exchange.subscribed.values()) == [SYMBOLS] * 4
    assert [each.close_code for each in server.connections].count(1008) == 0


def test_a_missing_update(exchange: Exchange, fill: dict[str, str]) -> None:
    """The book is rebuilt; updates that the snapshot has already are left out; zero removes."""
    with Recipe("order-book", fill) as recipe:
        books, symbol = recipe.module.books, SYMBOLS[0]
        eventually(lambda: symbol in exchange.subscribed[exchange.server.connections[-1]])
        exchange.change(symbol, "9.6", "2")
        eventually(lambda: exchange.is_copied(books, symbol))
        exchange.change(symbol, "9.0", "5", is_sent=False)
        exchange.change(symbol, "9.6", "0")
        eventually(lambda: exchange.is_copied(books, symbol))
        exchange.change(symbol, "9.8", "1")
        assert recipe.printed.wait() == [f"{symbol} 9.8 10.0"]  # the others were in a snapshot
        assert exchange.is_copied(books, symbol)
        assert exchange.snapshots == [symbol, symbol]


def test_a_snapshot_that_is_too_old(exchange: Exchange, fill: dict[str, str]) -> None:
    """It is asked for again, and no update is lost."""
    symbol = SYMBOLS[0]
    exchange.old = [{"last": 9, "b": {}, "a": {}}] * 2
    with Recipe("order-book", fill | {"Postponed(0.5)": "Postponed(0.02)"}) as recipe:
        eventually(lambda: symbol in exchange.subscribed[exchange.server.connections[-1]])
        exchange.change(symbol, "9.6", "2")
        eventually(lambda: exchange.is_copied(recipe.module.books, symbol))
        assert exchange.snapshots == [symbol] * 3
