"""A MariaDB server for one test, for users of Django with MySQL or MariaDB."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import pytest

from .http import free_port
from .services import needed

__all__ = ["PrivateMariaDB"]

START_SECONDS = 30.0


class PrivateMariaDB:
    """
    A ``mariadbd`` process on a free port, with its data in a temporary folder.

    ``with`` starts and stops it. Without the program or Django's driver, the test is skipped.
    """

    def __init__(self) -> None:
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/datastream"

    def __enter__(self) -> Self:
        self._driver: Any = pytest.importorskip(
            "MySQLdb", reason="no mysqlclient, Django's driver for MariaDB"
        )
        install = needed("mariadb-install-db", "mariadb-server")
        self._folder = Path(tempfile.mkdtemp(prefix="mariadb-"))
        self._options = [
            f"--datadir={self._folder / 'data'}",
            f"--user={getpass.getuser()}",
        ]
        subprocess.run(
            [install, "--no-defaults", *self._options, "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        self._start()
        return self

    def _start(self) -> None:
        command = [
            needed("mariadbd", "mariadb-server"),
            "--no-defaults",
            *self._options,
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--socket={self._folder / 'socket'}",
            f"--pid-file={self._folder / 'pid'}",
            "--innodb-flush-log-at-trx-commit=0",
            # The default of MariaDB, but not of Debian. Its tables cannot store emoji.
            "--character-set-server=latin1",
        ]
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not self._responds():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"no start of mariadbd: {(self._folder / 'log').read_text()}")
            time.sleep(0.05)
        self._make_database()

    def _make_database(self) -> None:
        connection = self._driver.connect(host="127.0.0.1", port=self.port, user="root")
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE datastream")
        connection.close()

    def _responds(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self._folder)
