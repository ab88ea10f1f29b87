"""The source of the fleet, with a stream for each supplier."""

from __future__ import annotations

import os
from typing import Any

from .models import Supplier

__all__ = ["suppliers"]


def suppliers() -> dict[int, dict[str, Any]]:
    """Return the options of each supplier's stream, by the key of its row."""
    feed = os.environ.get("FEED_URL", "http://127.0.0.1:9000").replace("http", "ws", 1)
    return {
        supplier.pk: {
            "url": f"{feed}/suppliers/{supplier.code}",
            "headers": {"Authorization": f"Bearer {supplier.token}"},
        }
        for supplier in Supplier.objects.all()
    }
