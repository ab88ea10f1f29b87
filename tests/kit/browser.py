"""A headless Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.seen import eventually
from kit.services import missing

__all__ = ["as_theme", "chromium", "log_in", "pressed_until", "sized"]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1100,800"),
)


def found(*names: str) -> str:
    """Return the path of the first of these programs. Without one, the test is skipped or fails."""
    for name in names:
        if path := shutil.which(name):
            return path
    missing(f"no {names[0]} on the path (Debian: chromium, chromium-driver)")


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Yield a driver of a browser that uses the folder *profile*."""
    program, driver = found("chromium", "chromium-browser"), found("chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def log_in(browser: Any, site: str, name: str, password: str) -> None:
    """Log in to the admin of *site*, and return when the page has loaded."""
    browser.get(f"{site}admin/")
    browser.find_element("name", "username").send_keys(name)
    browser.find_element("name", "password").send_keys(password)
    browser.find_element("css selector", "input[type=submit]").click()
    # A click does not wait for its page, which would replace the next one.
    eventually(lambda: browser.find_elements("id", "logout-form"), 60)


def as_theme(browser: Any, theme: str) -> None:
    """Set the theme that the system prefers, ``"light"`` or ``"dark"``."""
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def sized(browser: Any, width: int, height: int) -> None:
    """Emulate a window of this size in pixels. A real one cannot be narrower than 500."""
    words = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", words)


def pressed_until(browser: Any, key: str, selector: str, most: int = 100) -> None:
    """Press a key until the element has the focus. AssertionError after *most* times."""
    for _ in range(most):
        browser.switch_to.active_element.send_keys(key)
        script = "return document.activeElement.matches(arguments[0])"
        if browser.execute_script(script, selector):
            return
    raise AssertionError(f"{selector} cannot be reached by keyboard")
