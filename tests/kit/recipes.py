"""
Run the programs in docs/recipes/ for their tests.

::

    with Recipe("graphql", {"wss://api.example.com/graphql": proxy.url}) as recipe:
        ...
        for number in recipe.connections(proxy.sever, server.kill):
            ...                                # ready at the start, and after each loss
        assert recipe.printed.all == [...]

The code is that of the page, except for the addresses and the delays between attempts.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from datastream_ws import Client, State
from datastream_ws.testing import StreamServer

from .djangoproject import Process
from .http import free_port
from .pages import ROOT, Block, steps
from .seen import FAST, Seen, eventually

__all__ = ["MOST_LINES", "Recipe", "Served", "answering", "code_of", "file_of", "kill"]

MOST_LINES = 43


def code_of(page: Path) -> Block:
    """Return the only program of a page. Files with a title belong to a server."""
    found = [each for each in steps(str(page.relative_to(ROOT))) if isinstance(each, Block)]
    [program] = [each for each in found if each.language == "python" and not each.title]
    return program


def file_of(name: str, title: str) -> str:
    """Return a file of the page ``docs/recipes/NAME.md``."""
    [text] = [
        each.text
        for each in steps(f"docs/recipes/{name}.md")
        if isinstance(each, Block) and each.title == title
    ]
    return text


class Recipe:
    """
    The program of a recipe. ``with`` starts its client, and waits until it is ready.

    Args:
        name: The name of the page in ``docs/recipes``.
        fill: The texts to replace in the program, and their replacements.
        options: Options that replace those of the client, in addition to FAST.

    Attributes:
        printed: The lines that the program has printed.
        module: The program as a module.
        client: The client of the program.

    """

    def __init__(self, name: str, fill: Mapping[str, str], **options: Any) -> None:
        program = code_of(ROOT / "docs" / "recipes" / f"{name}.md")
        code = program.text
        for known, filled in fill.items():
            assert known in code, f"{known!r} is not in the program"
            code = code.replace(known, filled)
        self.printed = Seen[str]()
        self.module = ModuleType(name)
        vars(self.module)["print"] = lambda *words: self.printed(" ".join(map(str, words)))
        exec(compile(code, str(program), "exec"), vars(self.module))  # noqa: S102  # our own page
        self.client: Client = self.module.client
        inside = getattr(self.client, "aio", self.client)  # an AsyncClient has no aio
        inside.options = self.client.options.replace(**FAST | options)

    def __enter__(self) -> Self:
        self.client.start()
        self.client.wait_ready(30)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()

    def failure(self) -> BaseException:
        """Start the client, and return the error with which it fails."""
        with self.client:
            eventually(lambda: self.client.state is State.FAILED)
            assert self.client.error is not None
            return self.client.error

    def connections(self, *lose: Callable[[], object]) -> Iterator[int]:
        """Yield 1, and the next number after each loss, when the client is ready again."""
        yield 1
        for number, each in enumerate(lose, 2):
            self.after(each)
            yield number

    def after(self, lose: Callable[[], object]) -> None:
        """Lose the connection, and wait until the next one is ready."""
        before = self.client.stats().connections
        lose()
        eventually(lambda: self.client.stats().connections > before and self.client.is_ready)


def kill(server: StreamServer) -> None:
    """End the server like SIGKILL, and start it again on the same port."""
    server.mute()  # no handshake gets a response between the next two calls
    server.abort()
    server.stop()
    server.unmute()
    server.start()


@contextmanager
def answering(answer: Callable[[str, Message], Any]) -> Iterator[str]:
    """Serve the JSON that *answer* returns for a path and headers, and yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer(self.path, self.headers)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class Served:
    """
    A server as a process on a free port, which ``with`` starts and ends.

    Args:
        command: A function that returns the command for a port.
        ready: The text that the server prints when it listens.
        folder: The working folder, and the folder for its output.
        environment: More variables. ``None`` adds none.

    Attributes:
        ends_with_stdin: Whether the server exits when its stdin is closed, so that it doesn't
            outlive a killed test.

    """

    ends_with_stdin = True

    def __init__(
        self,
        command: Callable[[int], list[str]],
        ready: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self._command = command(self.port)
        self._ready = ready
        self._folder = folder
        self._environment = {**os.environ, **(environment or {})}
        self._starts = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.__exit__(None, None, None)

    def start(self) -> None:
        """Start the server on the same port, with a new log."""
        self._starts += 1
        log = self._folder / f"server-{self._starts}.log"
        self.process = Process(
            self._command, self._folder, self._environment, log, stdin=self.ends_with_stdin
        )
        self.process.wait_output(self._ready)

    def kill(self) -> None:
        """Send SIGKILL, and start the server again."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.__exit__(None, None, None)
        self.start()

    @property
    def said(self) -> list[str]:
        """The lines that the server has printed since its last start."""
        return self.log(self._starts)

    def log(self, start: int) -> list[str]:
        """Return the lines that the server has printed after this start, counted from 1."""
        return (self._folder / f"server-{start}.log").read_text().splitlines()
