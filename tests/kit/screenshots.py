"""
The pictures in docs/images: ``python -m tests.kit.screenshots``.

It runs the demo for two minutes, and then takes the pages of the shop and of the admin. It invents
the history of the hour before the demo, so that the chart is full.

::

    python -m tests.kit.screenshots FOLDER    # also narrow and dark, to look at
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does

from kit.browser import as_theme, chromium, sized
from kit.demo import ROOT, Demo
from kit.seen import eventually

IMAGES = ROOT / "docs" / "images"
SECONDS = 125  # the shop's chart shows two minutes
SETTLE = 2.0  # seconds for a page to update
LARGEST = 150_000  # bytes
ADMIN = "admin/datastream/"
PAGES = {
    "admin-overview": (f"{ADMIN}streamstatus/", 560),
    "admin-live": (f"{ADMIN}streamstatus/live/prices/", 900),
    "admin-fleet": (f"{ADMIN}streamstatus/live/suppliers/", 900),
    "admin-failed": (f"{ADMIN}failedmessage/", 640),
    "shop": ("", 720),
}
COFFEE = ("css selector", "button[value=coffee]")
TROUBLE = ("css selector", ".state.warning, .state.unwell")
ROW = "INSERT INTO datastream_streamminute VALUES (?, ?, 1, ?, ?, 0, ?, ?, ?, ?)"


def an_hour_before(folder: Path) -> None:
    """Write the history of the hour before the demo."""
    [path] = folder.rglob("shop.sqlite3")
    chance, now = random.Random(3), int(time.time() // 60)
    with sqlite3.connect(path, timeout=60) as database:
        for stream, usual in (("prices", 1200), ("flags", 32), ("suppliers", 380)):
            for minute in range(now - 60, now):
                is_gap = now - 26 < minute < now - 22
                count = 0 if is_gap else round(usual * chance.uniform(0.9, 1.0))
                values = (count, count, chance.randrange(9), int(is_gap))
                seconds = 0 if is_gap else 60
                database.execute(
                    ROW, (stream, minute, *values, seconds, chance.uniform(0.002, 0.02))
                )


def take(browser: Any, target: Path) -> None:
    time.sleep(SETTLE)
    browser.save_screenshot(str(target))
    print(f"{target}: {target.stat().st_size} bytes")


def take_for_docs(browser: Any, site: str) -> None:
    for name, (page, height) in PAGES.items():
        browser.get(site + page)
        sized(browser, 1280, height)
        eventually(lambda: not browser.find_elements(*TROUBLE), 60)  # the feed drops now and then
        if name == "shop":
            eventually(lambda: browser.find_elements(*COFFEE), 60)
            browser.find_element(*COFFEE).click()
        take(browser, IMAGES / f"{name}.png")
        assert (IMAGES / f"{name}.png").stat().st_size < LARGEST
    as_theme(browser, "dark")
    take(browser, IMAGES / "shop-dark.png")


def take_to_look_at(browser: Any, site: str, folder: Path) -> None:
    for name, (page, _) in PAGES.items():
        browser.get(site + page)
        for theme in ("light", "dark"):
            as_theme(browser, theme)
            for width in (1280, 390):
                sized(browser, width, 1600)
                take(browser, folder / f"{name}-{theme}-{width}.png")


def main(arguments: list[str]) -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = folder / "demo"
        state.mkdir()
        with Demo(state) as demo, chromium(folder / "profile") as browser:
            site = demo.address("site")
            demo.wait_for("ready")
            an_hour_before(state)
            demo.log_in(browser)
            time.sleep(SECONDS)
            if arguments:
                take_to_look_at(browser, site, Path(arguments[0]))
            else:
                take_for_docs(browser, site)
            demo.end()


if __name__ == "__main__":
    main(sys.argv[1:])
