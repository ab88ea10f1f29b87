"""
Celery's ``filesystem://`` broker, with messages that appear whole.

Kombu's own opens a message's file in its place and then writes: a worker that looks in between
reads an empty one, and ends (github.com/celery/kombu/issues/1551). Not needed with Redis or
RabbitMQ.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem

__all__ = ["Transport"]


class Channel(filesystem.Channel):  # type: ignore[misc,unused-ignore]  # kombu has no types
    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:  # type: ignore[override,unused-ignore]
        name = f"{time.monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}.msg"
        folder = Path(self.data_folder_out)
        unfinished = folder / f".{name}.unfinished"
        unfinished.write_text(json.dumps(message))
        os.replace(unfinished, folder / name)


class Transport(filesystem.Transport):  # type: ignore[misc,unused-ignore]
    Channel = Channel
