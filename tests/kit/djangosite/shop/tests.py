"""Tests of a project, which ``manage.py test`` runs."""

from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from datastream_ws_django import datastream, datastreams
from datastream_ws_django.models import FailedMessage
from datastream_ws_django.testing import deliver

from .datastreams import keep
from .models import Tick


@datastreams["async"].on_message("number")
async def keep_async(message: Any) -> None:
    """Write the message with the async ORM."""
    await Tick.objects.acreate(number=message.json()["n"])


@datastreams["failing"].on_message
def fail(message: Any) -> None:
    """Write the message, and fail."""
    keep(message)
    raise RuntimeError("on purpose")


STREAMS = {
    "default": {"URL": "ws://127.0.0.1:1/"},
    "async": {},
    "failing": {"ATOMIC": "default"},
}


@override_settings(DATASTREAMS=STREAMS)
class Delivered(TestCase):
    """Tests that run in a transaction."""

    def test_plain_handlers_run_inside_the_transaction(self) -> None:
        savepoint = transaction.savepoint()
        deliver("default", {"type": "number", "n": 1})
        assert Tick.objects.count() == 1
        transaction.savepoint_rollback(savepoint)
        assert Tick.objects.count() == 0

    def test_coroutine_handlers_too(self) -> None:
        savepoint = transaction.savepoint()
        deliver("async", {"type": "number", "n": 1})
        assert Tick.objects.count() == 1
        transaction.savepoint_rollback(savepoint)
        assert Tick.objects.count() == 0

    def test_what_a_handler_raised_is_raised_and_rolled_back(self) -> None:
        with self.assertRaisesMessage(RuntimeError, "on purpose"):
            deliver("failing", {"type": "number", "n": 1})
        assert Tick.objects.count() == 0

    def test_robust_reports_and_keeps_a_dead_letter(self) -> None:
        with self.assertLogs("datastream_ws", "ERROR"):
            deliver("failing", {"type": "number", "n": 1}, robust=True)
        assert FailedMessage.objects.get().handler == "shop.tests.fail"
        assert Tick.objects.count() == 0

    async def test_from_a_coroutine(self) -> None:
        with self.assertRaisesMessage(RuntimeError, "sync_to_async(deliver)"):
            deliver("default", {"type": "number", "n": 1})
        await sync_to_async(deliver)("async", {"type": "number", "n": 1})
        assert await Tick.objects.acount() == 1

    def test_settings_may_be_overridden(self) -> None:
        for name, count in (("other", 0), ("type", 1)):
            with override_settings(DATASTREAMS={"default": {"ROUTE": name}}):
                deliver("default", {"type": "number", "n": 1})
            assert Tick.objects.count() == count

    def test_the_next_test_starts_empty(self) -> None:
        assert Tick.objects.count() == 0


@override_settings(DATASTREAMS=STREAMS)
class Committed(TransactionTestCase):
    """Tests that run without a transaction."""

    def test_connections_are_cleaned_and_work_again(self) -> None:
        deliver("default", {"type": "number", "n": 1})
        assert Tick.objects.count() == 1
        assert not connection.in_atomic_block
        datastream.deliver({"type": "number", "n": 2})
        assert Tick.objects.count() == 2
