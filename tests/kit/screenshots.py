"""
The pictures in docs/images: ``python -m tests.kit.screenshots``.

A demo runs for two minutes; then the shop's page and the admin's live page are taken.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does

from kit.browser import chromium
from kit.demo import ROOT, Demo

IMAGES = ROOT / "docs" / "images"
SECONDS = 125  # the chart shows two minutes
LARGEST = 150_000  # bytes


def take(browser: Any, name: str, width: int, height: int) -> None:
    browser.set_window_rect(width=width, height=height)
    time.sleep(2)  # for the page to follow
    target = IMAGES / f"{name}.png"
    browser.save_screenshot(str(target))
    size = target.stat().st_size
    print(f"{target.relative_to(ROOT)}: {size} bytes")
    assert size < LARGEST


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "demo"
        state.mkdir()
        with Demo(state) as demo, chromium(Path(folder) / "profile") as browser:
            demo.log_in(browser)
            browser.get(f"{demo.address('site')}admin/datastream/streamstatus/live/prices/")
            time.sleep(SECONDS)
            take(browser, "admin-live", 1180, 820)
            browser.get(demo.address("site"))
            browser.find_element("css selector", "button[value=coffee]").click()
            take(browser, "shop", 1180, 920)
            as_dark(browser)
            take(browser, "shop-dark", 1180, 920)
            demo.end()


def as_dark(browser: Any) -> None:
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


if __name__ == "__main__":
    main()
