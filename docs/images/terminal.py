"""
Takes the pictures of the command line for the docs: ``python docs/images/terminal.py``.

What is seen is real: the commands run on a terminal of their own, against a feed that drops its
connections, and its screen is drawn as SVG.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rich._export_format import CONSOLE_SVG_FORMAT  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.style import Style  # noqa: E402
from rich.text import Text  # noqa: E402

from datastream_ws.testing import StreamServer  # noqa: E402
from kit.cli import Terminal, terminal  # noqa: E402

WIDTH = 100
COLOURS = {"brown": "yellow"}  # as pyte calls it
# Without rich's fonts, which a browser would fetch from elsewhere.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
FLAGS = ("dark-mode", "exports", "new-checkout")


@contextmanager
def feed(port: int) -> Iterator[StreamServer]:
    """A server that sends something ten times a second."""
    over = threading.Event()

    def send() -> None:
        for number in itertools.count():
            if over.wait(0.1):
                return
            flag = {"type": "flag_update", "key": FLAGS[number % 3], "value": number % 2 == 0}
            price = {"type": "price", "symbol": "ACME", "price": 100 + number % 7 / 4}
            server.send(flag if number % 3 else price)

    with StreamServer(port=port) as server:
        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield server
        finally:
            over.set()
            sender.join()


def listen(port: int) -> None:
    """A drop, the reconnect, and the live line."""
    url = f"ws://127.0.0.1:{port}/stream"
    delays = ["--min-reconnect-delay", "0.5", "--max-reconnect-delay", "0.8"]
    with feed(port) as server, terminal("listen", url, *delays, size=(WIDTH, 16)) as screen:
        screen.wait_for(lambda: re.search(r"ready · [3-9] messages", screen.last))
        server.close(1001, "deploying")
        screen.wait_for(lambda: re.search(r"ready · 1\d messages .* 1 reconnect", screen.last))
        draw(screen, "listen", "datastream-ws listen ws://127.0.0.1:8765/stream")
        screen.press(b"\x03")
        screen.end()


def check(port: int) -> None:
    """All is well; and a server that wants credentials."""
    url = f"ws://127.0.0.1:{port}/stream"
    with feed(port) as server:
        server.refuse(401)
        with terminal("check", url, size=(WIDTH, 10)) as screen:
            screen.end()
            draw(screen, "check", "datastream-ws check ws://127.0.0.1:8765/stream")


def draw(screen: Terminal, name: str, title: str) -> None:
    """Write what is on the screen to ``<name>.svg``."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    lines = list(styled(screen))
    while lines and not lines[-1].plain.strip():
        lines.pop()
    for line in lines:
        console.print(line, soft_wrap=True)
    path = Path(__file__).with_name(f"{name}.svg")
    console.save_svg(str(path), title=title, unique_id=name, code_format=FORMAT)
    print(path.relative_to(ROOT))


def styled(screen: Terminal) -> Iterator[Text]:
    """Yield the lines of the screen with their colours."""
    for row in range(screen.screen.lines):
        line = Text(no_wrap=True)
        cells = [screen.screen.buffer[row][column] for column in range(WIDTH)]
        for (colour, bold), run in itertools.groupby(cells, lambda cell: (cell.fg, cell.bold)):
            text = "".join(cell.data for cell in run)
            line.append(text, Style(color=COLOURS.get(colour, colour), bold=bold))
        line.rstrip()
        yield line


if __name__ == "__main__":
    listen(8765)
    check(8765)
