"""Messages like those of real feeds, which all differ.

A kind is a function of the message's number. Its values come from a seed, so every run gets the
same messages.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["KINDS", "message"]

Make = Callable[[random.Random, int], Any]


def trade(dice: random.Random, number: int) -> Any:
    """Return a trade of about 150 bytes."""
    return {
        "type": "trade",
        "symbol": dice.choice(("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")),
        "id": 4_100_000_000 + number,
        "price": round(dice.uniform(10, 70_000), 2),
        "quantity": round(dice.expovariate(2), 5),
        "time": 1_764_000_000_000 + number * 7 + dice.randrange(7),
        "maker": dice.random() < 0.5,
        "venue": f"x{dice.randrange(10**9):09}",
    }


def book(levels: int) -> Make:
    """Return a function that makes an order book with this number of levels on each side."""

    def make(dice: random.Random, number: int) -> Any:
        middle = dice.uniform(100, 70_000)

        def side(sign: int) -> list[list[str]]:
            steps = (middle + sign * (level + dice.random()) / 10 for level in range(levels))
            return [[f"{price:.2f}", f"{dice.expovariate(1):.5f}"] for price in steps]

        return {"type": "book", "update": 9_000_000 + number, "bids": side(-1), "asks": side(1)}

    return make


def company(dice: random.Random, number: int) -> Any:
    """Return a company of an entitlement service with its users, about 55 kB."""
    users = [
        {
            "id": f"user_{dice.getrandbits(64):016x}",
            "name": f"{dice.choice(NAMES)} {dice.choice(NAMES)}",
            "traits": {trait: dice.randrange(1000) for trait in TRAITS},
            "since": f"20{dice.randrange(10, 26)}-{dice.randrange(1, 13):02}-01T00:00:00Z",
        }
        for _ in range(271)
    ]
    return {"type": "company", "id": f"comp_{number:08}", "plan": "pro", "users": users}


def flags(dice: random.Random, number: int) -> Any:
    """Return all flags of an environment, about half a MiB."""
    return {
        "type": "flags",
        "version": number,
        "flags": [
            {
                "id": f"flag_{dice.getrandbits(64):016x}",
                "key": f"{dice.choice(TRAITS)}-{dice.choice(NAMES).lower()}-{index}",
                "default": dice.random() < 0.5,
                "rules": [
                    {"type": "plan", "operator": "in", "value": dice.random() < 0.5, "priority": n}
                    for n in range(3)
                ],
            }
            for index in range(2030)
        ],
    }


def routed(dice: random.Random, number: int) -> Any:
    """Return a small message with one of a thousand types."""
    return {
        "type": f"t{dice.randrange(1000):03}",
        "id": number,
        "value": round(dice.random(), 6),
        "text": f"{dice.getrandbits(256):064x}",
    }


def bulk(dice: random.Random, number: int) -> Any:
    """Return a trade. The 500th message of each thousand has 5 MB."""
    if number % 1000 != 500:
        return trade(dice, number)
    return {"type": "history", "trades": [trade(dice, number + n) for n in range(34_300)]}


NAMES = ("Ada", "Boole", "Curie", "Dirac", "Euler", "Fermi", "Gauss", "Hopper", "Ising", "Jöns")
TRAITS = ("seats", "requests", "storage", "projects", "exports", "logins", "invoices", "alerts")

KINDS: dict[str, Make] = {
    "trade": trade,
    "book-2k": book(42),
    "book-8k": book(175),
    "company": company,
    "flags": flags,
    "routes": routed,
    "bulk": bulk,
}


def message(kind: str, number: int) -> bytes:
    """Return the message with this number, as compact JSON."""
    obj = KINDS[kind](random.Random(number), number)
    return json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode()
