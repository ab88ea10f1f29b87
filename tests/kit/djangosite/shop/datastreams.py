"""The handlers; autodiscovered. HANDLER says which of them a test wants."""

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
    """Ask for what follows the last message that reached this process, or the table."""
    last = datastream.last_message
    if last is not None:
        number = last.json()["n"]
    else:
        newest = Tick.objects.order_by("-number").first()
        number = newest.number if newest else 0
    datastream.send({"resume": number})


def keep(message: Message) -> None:
    """Write the message once, however often it comes."""
    Tick.objects.get_or_create(
        number=message.json()["n"], defaults={"epoch": message.epoch, "handled_by": os.getpid()}
    )


if HANDLER == "plain":
    datastream.on_message("number")(keep)

elif HANDLER == "receiver":

    @receiver(message_received, sender=datastream)
    def received(sender: Any, *, stream: Any, message: Message, **kwargs: Any) -> None:
        """As any Django project would."""
        assert sender is stream is datastream
        keep(message)

elif HANDLER == "async":

    @datastream.on_message("number")
    async def keep_async(message: Message) -> None:
        """With the async ORM."""
        await Tick.objects.aget_or_create(
            number=message.json()["n"],
            defaults={"epoch": message.epoch, "handled_by": os.getpid()},
        )

elif HANDLER == "update":

    @datastream.on_message("number")
    def update(message: Message) -> None:
        """Read, then write, in one transaction."""
        Tick.objects.update_or_create(
            number=message.json()["n"], defaults={"handled_by": os.getpid()}
        )

elif HANDLER == "aupdate":

    @datastream.on_message("number")
    async def update_async(message: Message) -> None:
        """The same with the async ORM."""
        await Tick.objects.aupdate_or_create(
            number=message.json()["n"], defaults={"handled_by": os.getpid()}
        )

elif HANDLER == "slow":

    @datastream.on_message("number")
    def keep_slowly(message: Message) -> None:
        """Long enough for messages to wait."""
        time.sleep(0.04)
        keep(message)

elif HANDLER == "stuck":

    @datastream.on_message("number")
    def never_ends(message: Message) -> None:
        """Never ends."""
        keep(message)
        threading.Event().wait()

elif HANDLER == "failing":

    @datastream.on_message("number")
    def fails(message: Message) -> None:
        """Fail for even numbers, but not with MENDED: seconds; what was written is rolled back."""
        if message.json()["n"] % 2 == 0 and not os.environ.get("MENDED"):
            with transaction.atomic():
                keep(message)
                raise RuntimeError("an even number")
        time.sleep(float(os.environ.get("MENDED", "0")))
        keep(message)

elif HANDLER == "odd":

    @datastream.on_error
    def hang(error: BaseException) -> None:
        """Hold up every report."""
        threading.Event().wait()

    @datastream.on_message("number")
    async def fails_oddly(message: Message) -> None:
        """With a text that no database takes as it is."""
        if not os.environ.get("MENDED"):
            raise RuntimeError("NUL \0, half of a pair \ud800")

elif HANDLER == "accounts":

    @datastreams["accounts"].on_message("number")
    def keep_of_account(message: Message) -> None:
        """Write a message of a fleet; the account's key is in *epoch*."""
        number = message.key * 1000 + message.json()["n"]
        Tick.objects.create(number=number, epoch=message.key, handled_by=os.getpid())


@datastream.on_message("sleep")
async def idle(message: Message) -> None:
    """A coroutine handler that needs no database."""
    await asyncio.sleep(0)
