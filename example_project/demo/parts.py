"""The parts of the shop: its folder, its environment and its programs."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from example_project.demo.services import Service

__all__ = ["DemoError", "Parts"]

ROOT = Path(__file__).parents[2]
BROKERS = {"REDIS_URL": "Redis", "AMQP_URL": "RabbitMQ"}
SUPPLIERS = 12
WORKERS = 3  # with a broker that several workers can share
BROKER_SECONDS = 3.0  # to connect


class DemoError(Exception):
    """An error that the user can fix."""


@dataclass
class Parts:
    """
    The programs of the shop, with their addresses and settings.

    Args:
        folder: An empty folder for all files.
        site, kiosk: Listening sockets.
        wanted: The options of the command line.

    """

    folder: Path
    site: socket.socket
    kiosk: socket.socket
    wanted: Namespace

    def __post_init__(self) -> None:
        self.password = secrets.token_hex(6)
        self.queue = f"shop-{secrets.token_hex(4)}"
        self.broker = next((name for name in BROKERS if os.environ.get(name)), None)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.feed_port: int = free.getsockname()[1]

    @property
    def site_url(self) -> str:
        return f"http://127.0.0.1:{self.site.getsockname()[1]}/"

    @property
    def kiosk_url(self) -> str:
        return f"http://127.0.0.1:{self.kiosk.getsockname()[1]}/"

    @property
    def broker_name(self) -> str:
        """The name of the broker's software, because the URL may contain a password."""
        return BROKERS[self.broker] if self.broker else "files"

    @property
    def workers(self) -> list[str]:
        if self.broker is None:
            return ["worker"]
        return [f"worker-{number}" for number in range(1, WORKERS + 1)]

    def prepare(self) -> None:
        """Prepare the database, the admin and the broker. Raises DemoError."""
        os.environ.update(self._environment())
        for name in ("broker/messages", "state", "tmp"):
            (self.folder / name).mkdir(parents=True)
        import django

        django.setup()
        from django.contrib.auth.models import User
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        User.objects.create_superuser("admin", password=self.password)
        self._add_suppliers()
        self._reach_broker()

    def _add_suppliers(self) -> None:
        from example_project.shop.models import Supplier

        Supplier.objects.bulk_create(
            Supplier(code=f"supplier-{number}", token=secrets.token_hex(8))
            for number in range(1, SUPPLIERS + 1)
        )

    def _environment(self) -> dict[str, str]:
        secret = secrets.token_urlsafe(40)
        return {
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "FEED_URL": f"http://127.0.0.1:{self.feed_port}",
            "SHOP_STATE": str(self.folder),
            "SHOP_SECRET_KEY": secret,
            "SHOP_QUEUE": self.queue,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            # For spools of the workers and temporary files.
            "XDG_STATE_HOME": str(self.folder / "state"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def _reach_broker(self) -> None:
        from example_project.worker import app

        with app.connection_for_write(connect_timeout=BROKER_SECONDS) as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0)
            except Exception as error:
                raise DemoError(
                    f"{self.broker}: no broker responds ({error}). Start it, correct the address, "
                    f"or unset {self.broker} to use the demo's own broker."
                ) from None

    def services(self) -> list[Service]:
        """Return the programs in the order in which they start."""
        python = sys.executable
        serve = (python, "-m", "gunicorn", "--threads", "4", "--no-control-socket", "--bind")
        manage = (python, "-m", "example_project.manage")
        site, kiosk = self.site.fileno(), self.kiosk.fileno()
        return [
            self._service("feed", self._feed()),
            self._service("flags", (*manage, "run_datastream", "flags")),
            *(
                self._service(f"suppliers-{number}", (*manage, "run_datastream", "suppliers"))
                for number in (1, 2)
            ),
            *(self._service(name, self._worker(name)) for name in self.workers),
            self._service("site", (*serve, f"fd://{site}", "example_project.wsgi"), site),
            self._service(
                "kiosk", (*serve, f"fd://{kiosk}", "example_project.kiosk:create_app()"), kiosk
            ),
        ]

    def _service(self, name: str, command: Any, *pass_fds: int) -> Service:
        return Service(name, command, self.folder, pass_fds)

    def _feed(self) -> list[str]:
        # With the time at which prices began, a feed that restarts continues at the current one.
        options = {
            "--port": self.feed_port,
            "--began": time.time(),
            "--interval": 1 / self.wanted.rate,
            "--seed": self.wanted.seed,
        }
        if self.wanted.messages:
            options["--limit"] = self.wanted.messages
        words = [str(word) for option in options.items() for word in option]
        return [sys.executable, "-m", "example_project.feed", *words]

    def _worker(self, name: str) -> list[str]:
        return [
            *(sys.executable, "-m", "celery", "-A", "example_project.worker", "worker"),
            *("--datastream", "--datastream-streams", "prices", "--hostname", f"{name}@shop"),
            *("--pool", "threads", "--concurrency", "2", "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle"),
        ]

    def clean_up(self) -> None:
        """Delete the demo's data in a shared broker, unless the broker is unavailable."""
        with suppress(Exception):
            if self.broker == "REDIS_URL":
                self._clean_redis()
            elif self.broker == "AMQP_URL":
                self._clean_rabbitmq()

    def _clean_redis(self) -> None:
        from redis import Redis

        with Redis.from_url(os.environ["REDIS_URL"]) as redis:
            for key in redis.scan_iter(f"{self.queue}:*"):
                redis.delete(key)

    def _clean_rabbitmq(self) -> None:
        from example_project.worker import app

        with app.connection_for_write(connect_timeout=BROKER_SECONDS) as connection:
            channel: Any = connection.default_channel
            channel.queue_delete(self.queue)
            channel.exchange_delete(self.queue)
