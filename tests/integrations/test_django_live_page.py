"""The admin's pages in a real browser, beside a real runner."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kit.browser import as_theme, chromium, found, log_in, pressed_until, sized
from kit.djangoproject import Process, Project
from kit.http import free_port, get
from kit.numbered import NumberedServer
from kit.realservers import node_packages
from kit.seen import eventually

EVIL = "<script>document.title = 'broken'</script>"
ZONE = "Asia/Kolkata"  # half an hour beside all of those that tests may run in
# An operator, an hour of history with a gap, and messages that a handler failed with.
SEED = """
import time
from django.contrib.auth.models import User
from django.utils import timezone
from datetime import timedelta
from datastream_ws_django.models import StreamMinute, StreamStatus
from datastream_ws_django.testing import deliver
User.objects.create_superuser("root", password="secret")
now = int(time.time() // 60)
row = dict(stream="default", run=1, waiting=0, reconnects=0, failed=0, connected=60)
for n in range(2, 50):
    if n not in (20, 21, 22):
        StreamMinute.objects.create(minute=now - n, received=60 * n, handled=60 * n, **row)
for n in range(24):
    deliver("default", {"type": "number", "n": 2 * n}, robust=True)
# A fleet of two processes, whose heartbeats stay fresh.
later = timezone.now() + timedelta(days=1)
beat = dict(host="a machine with a rather long name.example.org", beat_at=later)
for pid, streams in ((1, {"ready": 60}), (2, {"ready": 58, "waiting": 2})):
    StreamStatus.objects.create(
        stream="accounts", pid=pid, state="ready", streams=streams, source_size=121, **beat
    )
error = "HandshakeError: the server answered the handshake with HTTP 503 Service Unavailable"
for key in range(120):
    wrong = {"state": "waiting", "last_error": error} if key in (7, 77) else {"state": "ready"}
    StreamStatus.objects.create(
        stream=f"accounts/{key}", fleet="accounts", pid=1 + key % 2, state_since=later,
        events=[[later.timestamp(), "ready", ""]], **wrong, **beat,
    )
"""
MINUTES = "SELECT stream FROM datastream_streamminute"
PAGES = {
    "overview": "streamstatus/",
    "live": "streamstatus/live/default/",
    "confirm": "streamstatus/ask/pause/default/",
    "fleet": "streamstatus/live/accounts/",
    "stream": "streamstatus/live/accounts/7/",
    "processes": "streamstatus/processes/",
    "failed": "failedmessage/",
    "message": "failedmessage/1/change/",
}
# Django's own parts of a page are not ours to mend.
AXE = """
const done = arguments[arguments.length - 1];
axe.run(document.querySelector("main") || document, {runOnly: ["wcag2a", "wcag2aa", "wcag21aa"]})
  .then(found => done(found.violations.map(it =>
    `${it.id}: ${it.nodes.map(node => node.html).slice(0, 3).join(" | ")}`)));
"""

FAIL_ONCE = """
const real = window.fetch;
window.fetch = () => { window.fetch = real; return Promise.reject(new Error("offline")); };
"""


@pytest.fixture(scope="module")
def axe(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    found("chromium", "chromium-browser")  # without it there is no need to install anything
    folder = tmp_path_factory.mktemp("axe")
    packages = node_packages(pytestconfig, "axe-core", folder, ["axe-core@4"])
    return (packages / "node_modules" / "axe-core" / "axe.min.js").read_text()


class Scene:
    """A runner, a site and a browser that is logged in, all of one project."""

    def __init__(
        self, project: Project, server: NumberedServer, runner: Process, browser: Any, site: str
    ) -> None:
        self.project, self.server, self.runner = project, server, runner
        self.browser, self.site = browser, site

    def show(self, page: str) -> None:
        """Go to a page of the admin of the streams."""
        self.browser.get(f"{self.site}admin/datastream/{PAGES[page]}")

    def text(self, selector: str) -> str:
        """In one step: the page replaces its parts every few seconds."""
        script = "const it = document.querySelector(arguments[0]); return it ? it.innerText : ''"
        text: str = self.browser.execute_script(script, selector)
        return text

    def field(self, name: str) -> str:
        return self.text(f"[data-field={name}]")

    def comes(self, fact: Any) -> None:
        """Wait for what the page shows once it was refreshed, as it is when a tab comes back."""

        def look() -> Any:
            self.browser.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
            time.sleep(0.2)
            return fact()

        eventually(look, 60)

    def count(self, selector: str) -> int:
        script = "return document.querySelectorAll(arguments[0]).length"
        number: int = self.browser.execute_script(script, selector)
        return number

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()

    def told(self) -> list[str]:
        """What the browser complained about: a refused inline script or style, an exception."""
        entries = [str(entry) for entry in self.browser.get_log("browser")]
        return [entry for entry in entries if "favicon" not in entry]  # it is not ours


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, axe: str) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    # Few enough to be handled at once on a busy machine, where each is a row to be written.
    with NumberedServer(10**7, rate=20) as server:
        project = Project(folder, server.url, stream={"CLOSE_TIMEOUT": 60}, DEBUG="1")
        project.manage("migrate")
        project.manage("shell", "-c", SEED, HANDLER="failing")
        port = free_port()
        serve = ("runserver", "--noreload", f"127.0.0.1:{port}")
        with (
            project.start("run_datastream") as runner,
            # One that takes so long that a bulk of them is done in portions.
            project.start(*serve, HANDLER="failing", MENDED="0.2") as site,
            chromium(folder / "profile") as browser,
        ):
            runner.wait_for(project.numbers)
            site.wait_for(lambda: get(port, "/state/")[0] == 200)
            browser.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ZONE})
            address = f"http://127.0.0.1:{port}/"
            log_in(browser, address, "root", "secret")
            yield Scene(project, server, runner, browser, address)


pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("admin's pages"),
    pytest.mark.leaks_allowed("the server, its connection and the browser are there for all tests"),
]


def test_the_live_page_follows_the_runner(scene: Scene) -> None:
    scene.show("live")
    scene.comes(lambda: scene.field("state") == "READY")
    scene.comes(lambda: float(scene.field("rate")) > 5)
    before = int(scene.field("reconnects"))
    scene.server.close(1011, EVIL)
    scene.comes(lambda: int(scene.field("reconnects")) == before + 1)
    scene.comes(lambda: EVIL in scene.field("last_error"))
    assert scene.browser.title.startswith("Stream default")
    assert scene.told() == []


def test_times_are_in_the_users_zone(scene: Scene) -> None:
    scene.show("live")
    script = "const it = document.querySelector('.facts time'); return [it.dateTime, it.innerText]"
    moment, text = scene.browser.execute_script(script)
    local = datetime.fromisoformat(moment).astimezone(ZoneInfo(ZONE))
    assert f"{local:%M:%S}" in text
    assert " ago)" in text


def test_a_button_works_on_the_runner(scene: Scene) -> None:
    scene.show("live")
    scene.comes(lambda: scene.field("state") == "READY")
    before = int(scene.field("reconnects"))
    scene.browser.find_element("link text", "Reconnect").click()
    eventually(lambda: scene.count("input[value=Reconnect]"), 60)
    scene.click("input[value=Reconnect]")
    eventually(lambda: scene.count("#datastream-live"), 60)
    scene.comes(lambda: "reconnect carried out; requested by root" in scene.text(".events"))
    scene.comes(lambda: int(scene.field("reconnects")) == before + 1)
    assert scene.told() == []


def test_the_chart(scene: Scene) -> None:
    """An axis of times, shaded gaps, and each point by pointer and by keyboard."""
    scene.show("live")
    eventually(lambda: scene.count(".chart polyline"), 60)
    assert scene.count(".chart text") >= 5  # three rates, and at least two times
    assert scene.count(".chart .gap") >= 3
    pressed_until(scene.browser, "\ue004", ".scrubber")  # by Tab
    before = scene.text(".tooltip")
    scene.browser.switch_to.active_element.send_keys("\ue012" * 5)  # to the left
    after = scene.text(".tooltip")
    assert before != after
    assert "messages/s" in after
    value = "return document.activeElement.getAttribute('aria-valuetext')"
    assert scene.browser.execute_script(value) == after
    point_at(scene.browser, 0.01)
    assert "no data" in scene.text(".tooltip")
    scene.browser.find_element("link text", "7d").click()
    eventually(lambda: scene.text(".ranges [aria-current]") == "7d", 60)
    eventually(lambda: scene.count(".chart polyline"), 60)
    assert scene.told() == []


def point_at(browser: Any, share: float) -> None:
    """Move the mouse to a place of the chart."""
    from selenium.webdriver import ActionChains

    chart = browser.find_element("css selector", ".chart")
    width = chart.rect["width"]
    ActionChains(browser).move_to_element_with_offset(chart, (share - 0.5) * width, 0).perform()


def test_a_fleet_shows_the_worst_first_and_finds_a_key(scene: Scene) -> None:
    scene.show("overview")
    assert "118 ready, 2 waiting; 121 in the source" in scene.text(".cards")
    scene.browser.find_element("link text", "accounts").click()
    eventually(lambda: scene.count(".counts"), 60)
    assert scene.text(".counts").split("\n") == ["118 ready", "2 waiting", "1 not running"]
    keys = scene.text("[data-part=streams] tbody").split("\n")
    assert [line.split()[0] for line in keys[:2]] == ["7", "77"]
    assert "100 of 120, the worst first" in scene.text("[data-part=streams]")
    scene.browser.find_element("css selector", "[name=q]").send_keys("101\n")
    eventually(lambda: scene.count("[data-part=streams] tbody tr") == 1, 60)
    scene.browser.find_element("link text", "101").click()
    eventually(lambda: "accounts/101" in scene.browser.title, 60)
    assert scene.field("state") == "READY"
    assert scene.count(".chart") == 0
    assert scene.text(".verbs").strip() == "Reconnect"
    assert "ready" in scene.text(".events")
    scene.browser.find_element("link text", "accounts").click()
    eventually(lambda: scene.count(".counts"), 60)
    assert scene.told() == []


def test_an_unknown_stream_is_not_found(scene: Scene) -> None:
    scene.browser.get(f"{scene.site}admin/datastream/streamstatus/live/nowhere/")
    assert "404" in scene.browser.page_source
    scene.told()


def test_every_page_for_everyone(scene: Scene, axe: str, tmp_path: Path) -> None:
    """Narrow and wide, light and dark: axe objects to nothing, none scrolls sideways."""
    objections: list[str] = []
    for page in PAGES:
        scene.show(page)
        objections += scene.told() + objections_to(scene.browser, axe, page, tmp_path)
    assert objections == []


def objections_to(browser: Any, axe: str, page: str, pictures: Path) -> list[str]:
    objections: list[str] = []
    browser.execute_script(axe)
    for theme in ("light", "dark"):
        as_theme(browser, theme)
        for width in (1280, 390):
            sized(browser, width, 900)
            where = f"{page}-{theme}-{width}"
            objections += [f"{where}: {it}" for it in lasting_objections(browser)]
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            if wide > width and page not in ("processes", "failed"):  # tables of Django's
                objections.append(f"{where}: {wide} pixels wide")
            browser.save_screenshot(str(pictures / f"{where}.png"))
    as_theme(browser, "light")
    sized(browser, 1280, 900)
    browser.get_log("browser")  # axe itself tries to write styles into the page
    return objections


def lasting_objections(browser: Any) -> list[str]:
    """What axe objects to for good: colors of buttons and links change gradually with the theme."""
    for _ in range(20):
        found: list[str] = browser.execute_async_script(AXE)
        if not found:
            break
        time.sleep(0.2)
    return found


def test_failed_messages_in_bulk(scene: Scene, axe: str, tmp_path: Path) -> None:
    """Retried with progress that goes on by itself, and deleted once that is confirmed."""
    choose(scene, "retry", 20)
    seen = []

    def is_done() -> bool:
        seen.append(scene.text("#datastream-bulk [role=status]"))
        return "20 of 20 handled" in seen[-1]

    eventually(is_done, 60)
    assert len(set(seen)) >= 2, seen
    choose(scene, "delete_selected", 4)
    assert "Delete 4 failed messages?" in scene.text("#datastream-bulk")
    assert objections_to(scene.browser, axe, "bulk", tmp_path) == []
    scene.browser.execute_script(FAIL_ONCE)
    scene.click("#datastream-bulk [type=submit]")
    stopped = "The action stopped: offline. Press Delete to go on."
    eventually(lambda: scene.text("#datastream-bulk .trouble") == stopped, 60)
    scene.click("#datastream-bulk [type=submit]")
    eventually(lambda: "4 of 4 deleted" in scene.text("#datastream-bulk"), 60)
    assert scene.project.query("SELECT count(*) FROM datastream_failedmessage") == [0]


def choose(scene: Scene, action: str, count: int) -> None:
    """Choose the first messages of the list, and what is to be done with them."""
    scene.show("failed")
    script = """
    const [action, count] = arguments;
    [...document.querySelectorAll(".action-select")].slice(0, count).forEach(box => box.click());
    document.querySelector("select[name=action]").value = action;
    document.querySelector("button[name=index]").click();
    """
    scene.browser.execute_script(script, action, count)
    eventually(lambda: scene.count("#datastream-bulk"), 60)


def test_the_history_outlives_the_runner(scene: Scene) -> None:
    """It is the last one: the runner ends."""
    scene.show("live")
    scene.runner.terminate()
    assert scene.runner.wait() == 0
    scene.comes(lambda: scene.field("state") == "CLOSED")
    runs = "SELECT count(DISTINCT run) FROM datastream_streamminute"
    eventually(lambda: scene.project.query(runs) == [2], 60)
    assert scene.told() == []
