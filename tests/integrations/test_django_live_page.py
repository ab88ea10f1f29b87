"""The live page in a real browser, beside a real runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.browser import chromium, log_in
from kit.djangoproject import Project
from kit.http import free_port, get
from kit.numbered import NumberedServer
from kit.seen import eventually

EVIL = "<script>document.title = 'broken'</script>"


@pytest.mark.timeout(300)
def test_the_live_page_follows_a_runner(tmp_path: Path) -> None:
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
            eventually(lambda: points(browser) > 3, 60)
            browser.save_screenshot(str(tmp_path / "live.png"))
            runner.terminate()
            assert runner.wait() == 0
            eventually(lambda: field(browser, "state") == "CLOSED", 60)
            # A favicon is not ours.
            told = [entry for entry in browser.get_log("browser") if "favicon" not in str(entry)]
            assert told == []


def field(browser: Any, name: str) -> str:
    text: str = browser.find_element("css selector", f"[data-field={name}]").text
    return text


def rate(browser: Any) -> float:
    try:
        return float(field(browser, "rate"))
    except ValueError:
        return 0.0


def points(browser: Any) -> int:
    drawn = browser.find_element("css selector", "polyline").get_attribute("points")
    return len(drawn.split())
