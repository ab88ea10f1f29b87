"""The admin's pages in a real browser, beside a real runner."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from kit.browser import chromium, found, log_in
from kit.djangoproject import Project
from kit.http import free_port, get
from kit.numbered import NumberedServer
from kit.seen import eventually

EVIL = "<script>document.title = 'broken'</script>"


@pytest.mark.timeout(300)
def test_the_live_page_follows_a_runner(tmp_path: Path, axe: str) -> None:
    # Few enough to be handled at once on a busy machine, where each is a row to be written.
    with NumberedServer(10**7, rate=20) as server:
        project = Project(tmp_path, server.url, DEBUG="1")
        project.manage("migrate")
        project.manage(
            *("createsuperuser", "--noinput", "--username", "root", "--email", "root@localhost"),
            DJANGO_SUPERUSER_PASSWORD="secret",
        )
        port = free_port()
        with (
            project.start("run_datastream") as runner,
            project.start("runserver", "--noreload", f"127.0.0.1:{port}") as site,
            chromium(tmp_path / "profile") as browser,
        ):
            runner.wait_for(project.numbers)
            site.wait_for(lambda: get(port, "/state/")[0] == 200)
            log_in(browser, f"http://127.0.0.1:{port}/", "root", "secret")
            browser.get(f"http://127.0.0.1:{port}/admin/datastream/streamstatus/live/default/")
            eventually(lambda: field(browser, "state") == "READY", 60)
            eventually(lambda: rate(browser) > 5, 60)
            server.close(1011, EVIL)
            eventually(lambda: field(browser, "reconnects") == "1", 60)
            eventually(lambda: EVIL in field(browser, "last_error"), 60)
            assert browser.title.startswith("Stream default")
            eventually(lambda: points(browser) >= 59, 60)
            reconnect_by_hand(browser)
            eventually(lambda: field(browser, "reconnects") == "2", 60)
            eventually(lambda: "reconnect carried out; requested by root" in events(browser), 60)
            look_at_all(browser, f"http://127.0.0.1:{port}/admin/datastream/", axe, tmp_path)
            browser.get(f"http://127.0.0.1:{port}/admin/datastream/streamstatus/live/default/")
            runner.terminate()
            assert runner.wait() == 0
            eventually(lambda: field(browser, "state") == "CLOSED", 60)
            eventually(lambda: "default" in project.query(MINUTES), 60)
            # A favicon is not ours; a refused inline script or style would be listed.
            told = [entry for entry in browser.get_log("browser") if "favicon" not in str(entry)]
            assert told == []


MINUTES = "SELECT stream FROM datastream_streamminute"
PAGES = {
    "overview": "streamstatus/",
    "live": "streamstatus/live/default/",
    "confirm": "streamstatus/ask/pause/default/",
    "processes": "streamstatus/processes/",
    "failed": "failedmessage/",
}
# Django's own parts of a page are not ours to mend.
AXE = """
const done = arguments[arguments.length - 1];
axe.run(document.querySelector("main") || document, {runOnly: ["wcag2a", "wcag2aa", "wcag21aa"]})
  .then(found => done(found.violations.map(it =>
    `${it.id}: ${it.nodes.map(node => node.html).slice(0, 3).join(" | ")}`)));
"""


@pytest.fixture(scope="session")
def axe(pytestconfig: pytest.Config) -> str:
    """The source of axe-core."""
    folder = pytestconfig.cache.mkdir("axe-core")
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = found("npm")
        command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "axe-core@4"]
        subprocess.run(command, check=True, capture_output=True, timeout=110)
    return script.read_text()


def objections_to(browser: Any) -> list[str]:
    """What axe objects to for good: colors of buttons and links change gradually with the theme."""
    for _ in range(20):
        found: list[str] = browser.execute_async_script(AXE)
        if not found:
            break
        time.sleep(0.2)
    return found


def look_at_all(browser: Any, site: str, axe: str, pictures: Path) -> None:
    """Each page, narrow and wide, light and dark: axe objects to nothing, none scrolls sideways."""
    objections: list[str] = []
    for name, path in PAGES.items():
        browser.get(site + path)
        for theme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": theme}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            for width in (1280, 390):
                words = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", words)
                browser.execute_script(axe)
                where = f"{name}-{theme}-{width}"
                objections += [f"{where}: {it}" for it in objections_to(browser)]
                wide = browser.execute_script("return document.documentElement.scrollWidth")
                if wide > width and name in ("overview", "live", "confirm"):
                    objections.append(f"{where}: {wide} pixels wide")
                browser.save_screenshot(str(pictures / f"{where}.png"))
    assert objections == []


def reconnect_by_hand(browser: Any) -> None:
    browser.find_element("link text", "Reconnect").click()
    eventually(lambda: browser.find_elements("css selector", "input[value=Reconnect]"), 60)
    browser.find_element("css selector", "input[value=Reconnect]").click()
    eventually(lambda: browser.find_elements("id", "datastream-live"), 60)


def events(browser: Any) -> str:
    return text_of(browser, ".events")


def text_of(browser: Any, selector: str) -> str:
    """In one step: the page replaces its parts every few seconds."""
    script = "const it = document.querySelector(arguments[0]); return it ? it.innerText : ''"
    text: str = browser.execute_script(script, selector)
    return text


def field(browser: Any, name: str) -> str:
    return text_of(browser, f"[data-field={name}]")


def rate(browser: Any) -> float:
    try:
        return float(field(browser, "rate"))
    except ValueError:
        return 0.0


def points(browser: Any) -> int:
    script = (
        "const it = document.querySelector('.chart polyline'); return it ? it.points.length : 0"
    )
    number: int = browser.execute_script(script)
    return number
