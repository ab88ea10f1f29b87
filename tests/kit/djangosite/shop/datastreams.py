"""The handlers. The variable HANDLER chooses one of them."""

import asyncio
import os
import threading
import time
from typing import Any

from django.db import transaction
from django.dispatch import receiver

from datastream_ws import Message
from datastream_ws_django import datastream, datastreams
from datastream_ws_django.signals import message_received

from .models import Tick

HANDLER = os.environ.get("HANDLER", "plain")


@datastream.on_ready
def resume() -> None:
    """Request the messages after the last one that this process, or the table, has."""
    last = datastream.last_message
    if last is not None:
        number = last.json()["n"]
    else:
        newest = Tick.objects.order_by("-number").first()
        number = newest.number if newest else 0
    datastream.send({"resume": number})


def keep(message: Message) -> None:
    """Write the message, unless it is in the table already."""
    Tick.objects.get_or_create(
        number=message.json()["n"], defaults={"epoch": message.epoch, "handled_by": os.getpid()}
    )


if HANDLER == "plain":
    datastream.on_message("number")(keep)

elif HANDLER == "receiver":

    @receiver(message_received, sender=datastream)
    def received(sender: Any, *, stream: Any, message: Message, **kwargs: Any) -> None:
        """Write the message, as a receiver of the signal."""
        assert sender is stream is datastream
        keep(message)

elif HANDLER == "async":

    @datastream.on_message("number")
    async def keep_async(message: Message) -> None:
        """Write the message with the async ORM."""
        await Tick.objects.aget_or_create(
            number=message.json()["n"],
            defaults={"epoch": message.epoch, "handled_by": os.getpid()},
        )

elif HANDLER == "update":

    @datastream.on_message("number")
    def update(message: Message) -> None:
        """Read and then write in one transaction."""
        Tick.objects.update_or_create(
            number=message.json()["n"], defaults={"handled_by": os.getpid()}
        )

elif HANDLER == "aupdate":

    @datastream.on_message("number")
    async def update_async(message: Message) -> None:
        """Do the same with the async ORM."""
        await Tick.objects.aupdate_or_create(
            number=message.json()["n"], defaults={"handled_by": os.getpid()}
        )

elif HANDLER == "slow":

    @datastream.on_message("number")
    def keep_slowly(message: Message) -> None:
        """Take so long that messages wait."""
        time.sleep(0.04)
        keep(message)

elif HANDLER == "stuck":

    @datastream.on_message("number")
    def never_ends(message: Message) -> None:
        """Write the message, and never return."""
        keep(message)
        threading.Event().wait()

elif HANDLER == "failing":

    @datastream.on_message("number")
    def fails(message: Message) -> None:
        """Roll back and fail for even numbers. ``MENDED`` is a delay instead."""
        if message.json()["n"] % 2 == 0 and not os.environ.get("MENDED"):
            with transaction.atomic():
                keep(message)
                raise RuntimeError("an even number")
        time.sleep(float(os.environ.get("MENDED", "0")))
        keep(message)

elif HANDLER == "odd":

    @datastream.on_error
    def hang(error: BaseException) -> None:
        """Block all later reports."""
        threading.Event().wait()

    @datastream.on_message("number")
    async def fails_oddly(message: Message) -> None:
        """Fail with a text that databases reject."""
        if not os.environ.get("MENDED"):
            raise RuntimeError("NUL \0, half of a pair \ud800")

elif HANDLER == "accounts":

    @datastreams["accounts"].on_message("number")
    def keep_of_account(message: Message) -> None:
        """Write a message of a fleet, with the key of the account as *epoch*."""
        number = message.key * 1000 + message.json()["n"]
        Tick.objects.create(number=number, epoch=message.key, handled_by=os.getpid())


@datastream.on_message("sleep")
async def idle(message: Message) -> None:
    """Wait without using the database."""
    await asyncio.sleep(0)
