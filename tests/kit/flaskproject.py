"""A Flask app in its own folder, and its commands as processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

__all__ = ["PATIENCE", "FlaskProject", "Running", "get"]

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds, because a busy machine starts an interpreter slowly


class Running:
    """A running command and its output. The end of the block kills it and its children."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its children can be killed, too
        )
        self._news = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        with self._news:
            return "".join(self._lines)

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until *pattern* was printed this number of times, and return the last match."""

        def found() -> list[re.Match[str]]:
            return list(re.finditer(pattern, "".join(self._lines)))

        with self._news:
            self._news.wait_for(lambda: len(found()) >= times or self._ended, PATIENCE)
            matches = found()
        assert len(matches) >= times, f"{pattern!r} was not printed:\n{self.output}"
        return matches[times - 1]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Wait for the end of the process, and return the exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


class FlaskProject:
    """
    A folder with ``app.py``.

    Args:
        folder: The folder of the app.
        app: The source of ``app.py``.
        config: Variables for the commands, such as ``FLASK_DATASTREAM_URL``.

    """

    def __init__(self, folder: Path, app: str, **config: str) -> None:
        self.folder = folder
        self.file = folder / "app.py"
        self.file.write_text(app, encoding="utf-8")
        self.config = config

    def flask(self, *words: str) -> Running:
        return self._run("flask", "--app", "app", *words)

    def datastream(self, *words: str) -> Running:
        """Run ``flask datastream …``."""
        return self.flask("datastream", *words)

    @contextmanager
    def debug_server(self) -> Iterator[str]:
        """Serve with ``flask run --debug``, and yield the URL."""
        with self.flask("run", "--debug", "--port", "0") as running:
            url = running.wait_for(r"Running on (http://\S+)")[1]
            running.wait_for("Debugger is active")  # printed by the reloader's child
            yield url

    @contextmanager
    def gunicorn(self, *words: str) -> Iterator[str]:
        """Serve with gunicorn, and yield the URL. At the end, it must exit with 0."""
        with self._run("gunicorn", "--bind", "127.0.0.1:0", *words, "app:create_app()") as running:
            url = running.wait_for(r"Listening at: (http://\S+)")[1]
            yield url
            running.terminate()
            assert running.exit_code() == 0, running.output

    def _run(self, module: str, *words: str) -> Running:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FLASK_", "PYTEST_"))}
        path = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
        environment = {**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.config}
        return Running([sys.executable, "-m", module, *words], self.folder, environment)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return str(response.read().decode())
