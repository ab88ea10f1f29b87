"""The shop's page and the admin's live page in a real browser, while feed and worker are killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.browser import chromium
from kit.demo import Demo
from kit.seen import eventually

pytestmark = pytest.mark.timeout(180)


def texts(browser: Any, selector: str) -> list[str]:
    """Return what is shown, without looking twice: the page is made anew all the time."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(each => each.textContent)",
        selector,
    )
    return found


def candles(browser: Any) -> int:
    return len(texts(browser, ".chart .candle"))


def too_wide(browser: Any) -> list[str]:
    """Return what does not fit into its box."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('html, .card, .products button, .streams li')]"
        ".filter(each => each.scrollWidth > each.clientWidth).map(each => each.textContent)"
    )
    return found


def test_page_and_admin_go_on_while_feed_and_worker_are_killed(tmp_path: Path) -> None:
    state = tmp_path / "demo"
    state.mkdir()
    with Demo(state, "--rate", "40") as demo, chromium(tmp_path / "profile") as browser:
        browser.get(demo.address("site"))
        browser.execute_script("window.first = true")
        eventually(lambda: candles(browser) > 2)
        assert len(texts(browser, ".products button")) == 4
        assert len(texts(browser, ".flags li")) == 4
        before = texts(browser, ".price"), texts(browser, ".flags b")
        eventually(lambda: texts(browser, ".price") != before[0])
        eventually(lambda: texts(browser, ".flags b") != before[1])

        demo.kill("example_project.feed")
        eventually(lambda: "prices waiting" in texts(browser, ".streams li"))
        demo.wait_for(r"feed +restarted +it had exited: killed by SIGKILL")
        eventually(lambda: any("prices gap" in text for text in texts(browser, ".events li")))
        eventually(lambda: texts(browser, ".chart .gap"))

        demo.kill("--hostname worker@")
        demo.wait_for(r"worker +restarted")
        demo.wait_for(r"worker +restarted[\s\S]+prices +ready")
        before = texts(browser, ".price"), []
        eventually(lambda: texts(browser, ".price") != before[0])
        assert browser.execute_script("return window.first")  # it was never loaded anew
        for width in (390, 700, 1100, 1600):
            browser.set_window_size(width, 800)
            assert too_wide(browser) == [], width
        check_log(browser)

        demo.log_in(browser)
        browser.get(f"{demo.address('site')}admin/datastream/streamstatus/live/prices/")
        eventually(lambda: texts(browser, "[data-field=state]") == ["ready"])
        eventually(
            lambda: len(texts(browser, "#datastream-live tbody tr")) == 2
        )  # the killed worker's, and its heir's
        retry_a_failed_message(browser, f"{demo.address('site')}admin/datastream/failedmessage/")
        check_log(browser)
        assert demo.end() == 0
        assert demo.left() == []
    assert " none missing" in demo.output
    assert "restarts  feed 1, worker 1" in demo.output


def retry_a_failed_message(browser: Any, page: str) -> None:
    """Some messages fail now and then, so that the page has something to show."""

    def failures() -> list[str]:
        browser.get(page)
        return texts(browser, "th.field-stream a")

    eventually(failures)
    assert "example_project.shop.datastreams.announce" in texts(browser, ".datastream td")
    browser.find_element("css selector", "th.field-stream a").click()
    eventually(lambda: texts(browser, ".object-tools form"))
    browser.find_element("css selector", "input[value=Retry]").click()
    eventually(lambda: texts(browser, ".messagelist .success") == ["1 handled."])


def check_log(browser: Any) -> None:
    """No script of ours complained; a favicon is not ours."""
    assert [it for it in browser.get_log("browser") if "favicon" not in str(it)] == []
