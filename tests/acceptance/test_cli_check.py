"""``datastream-ws check`` against servers that are well, and that are not."""

from __future__ import annotations

import json
import signal
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from datastream_ws.cli import main
from datastream_ws.testing import StreamServer
from kit.cli import run
from kit.http import free_port
from kit.rawserver import Fin, RawServer, Respond, Send, Stall, Upgrade

SECRET = "hunter2"
CA = trustme.CA()
PAST = {
    "not_before": datetime(2019, 1, 1, tzinfo=UTC),
    "not_after": datetime(2020, 1, 1, tzinfo=UTC),
}


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In this process, for speed: put back what a process of its own would take along."""
    import logging

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    log = logging.getLogger("datastream_ws")
    before = signal.getsignal(signal.SIGINT), log.propagate, log.level, list(log.handlers)
    yield
    signal.signal(signal.SIGINT, before[0])
    log.propagate, log.level, log.handlers = before[1:]


@pytest.fixture
def cafile(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(path))
    return str(path)


def serving(*names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(*names, **options).configure_cert(context)
    return context


class Said:
    """What the command prints of each step."""

    def __init__(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        self.code = main(["check", *arguments, "--timeout", "1"])
        self.out, self.err = capsys.readouterr()
        assert SECRET not in self.out + self.err
        assert "\x1b" not in self.out + self.err
        assert len(self.out.splitlines()[-1].strip()) > 0
        rows = [line.split(maxsplit=2) for line in self.out.splitlines()]
        self.steps = {row[1]: (row[0], row[2]) for row in rows if row[0] in "✓✗"}

    @property
    def failed(self) -> str:
        """The step that failed; empty: none."""
        found = [name for name, (mark, _) in self.steps.items() if mark == "✗"]
        assert found[1:] == []
        assert self.code == (1 if found else 0)
        return found[0] if found else ""


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    with StreamServer(on_connect=lambda c: c.send("hello")) as server:
        url = f"{server.url}/feed?token={SECRET}"
        said = Said([url, "-H", f"Authorization: {SECRET}"], capsys)
        [connection] = server.wait_connected(1)
        assert connection.closed.wait(5)
    assert said.failed == ""
    assert list(said.steps) == ["URL", "Proxy", "DNS", "TCP", "TLS", "Handshake", "Ping"]
    assert f"{server.url}/feed, port {server.port}, not encrypted" in said.out
    assert "127.0.0.1 responds on port" in said.out
    assert "1 message so far" in said.out
    assert connection.headers["Authorization"] == SECRET
    assert connection.close_code == 1000


def test_tls_with_a_private_authority(cafile: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StreamServer(ssl=serving("127.0.0.1")) as server:
        said = Said([server.url, "--cafile", cafile], capsys)
    assert said.failed == ""
    assert "TLSv1.3, certificate of" in said.steps["TLS"][1]
    assert "valid for" in said.steps["TLS"][1]


@pytest.mark.parametrize(
    ("names", "options", "trusts", "says"),
    [
        (["127.0.0.1"], {}, False, "--cacert FILE"),
        (["127.0.0.1"], PAST, True, "certificate has expired"),
        (["elsewhere.invalid"], {}, True, "the host name of the certificate"),
    ],
)
def test_certificates_that_are_not_accepted(
    names: list[str],
    options: dict[str, Any],
    trusts: bool,
    says: str,
    cafile: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with StreamServer(ssl=serving(*names, **options)) as server:
        said = Said([server.url, *(["--cafile", cafile] if trusts else [])], capsys)
    assert said.failed == "TLS"
    assert says in said.out


@pytest.mark.parametrize(
    ("url", "step", "says"),
    [
        (f"https://x/?token={SECRET}", "URL", "must start with ws:// or wss://"),
        (f"ws://user:{SECRET}@x", "URL", "Send credentials in headers"),
        ("ws://feed.invalid/", "DNS", "check the spelling"),
    ],
)
def test_urls(url: str, step: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said([url], capsys)
    assert said.failed == step
    assert says in said.out


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said([f"ws://127.0.0.1:{free_port()}"], capsys)
    assert said.failed == "TCP"
    assert "check that the server is running, and the port" in said.out


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "send valid credentials"), (404, "check the path"), (200, "web page")],
)
def test_refused_handshakes(status: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with StreamServer() as server:
        server.refuse(status)
        said = Said([server.url], capsys)
        assert len(server.attempts) == 2  # one of them TCP alone
    assert said.failed == "Handshake"
    assert says in said.out


def test_a_server_that_ends_it_at_once_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    with StreamServer(on_connect=lambda c: c.close(4401, "who\x1b[2J are you")) as server:
        said = Said([server.url], capsys)
    assert said.failed in ("Handshake", "Ping")
    assert r"code 4401: who\x1b[2J are you" in said.out


def test_tls_where_there_is_none_and_the_other_way(
    cafile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with StreamServer() as server:
        said = Said([server.url.replace("ws:", "wss:")], capsys)
    assert said.failed == "TLS"
    assert "or use ws://" in said.out
    with StreamServer(ssl=serving("127.0.0.1")) as server:
        said = Said([server.url.replace("wss:", "ws:")], capsys)
    assert said.failed == "Handshake"
    assert "try wss://" in said.out


@pytest.mark.parametrize(
    ("script", "step", "says"),
    [
        ([Send(b"220 smtp ready\r\n\r\n"), Fin()], "Handshake", "not valid HTTP"),
        ([Stall()], "Handshake", "isn't overloaded"),
        ([Upgrade(), Stall()], "Ping", "ping_interval=None"),
    ],
)
def test_strange_servers(
    script: list[Any], step: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with RawServer(script) as server:
        said = Said([server.url], capsys)
    assert said.failed == step
    assert says in said.out


def test_a_proxy_is_named_and_blamed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with RawServer([Respond(407)]) as proxy:
        where = proxy.url.removeprefix("ws://")
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@{where}")
        said = Said(["wss://feed.example/"], capsys)
    assert said.steps["Proxy"][1].startswith(f"http://{where}, from the environment")
    assert said.failed == "TLS"
    assert "the proxy requires credentials (407)" in said.out


def test_in_a_process_of_its_own_verbose_shows_the_traceback() -> None:
    done = run("check", f"ws://127.0.0.1:{free_port()}", "-v")
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr
    assert "✗  TCP" in done.stdout


def test_the_last_line_says_whether_it_passed(capsys: pytest.CaptureFixture[str]) -> None:
    with StreamServer() as server:
        assert main(["check", server.url]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "passed: the stream can be reached"
        server.refuse(401)
        assert main(["check", server.url]) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "stopped at Handshake"


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["URL", "Proxy", "DNS", "TCP", "TLS", "Handshake", "Ping"]
    with StreamServer() as server:
        assert main(["check", server.url, "--json"]) == 0
        good = json.loads(capsys.readouterr().out)
        server.refuse(401)
        assert main(["check", f"{server.url}/?token={SECRET}", "--json", "-v"]) == 1
        out, err = capsys.readouterr()
    bad = json.loads(out)
    assert [step["step"] for step in good["steps"]] == names
    assert (good["passed"], good["stopped_at"]) == (True, None)
    assert (bad["passed"], bad["stopped_at"]) == (False, "Handshake")
    assert [step["passed"] for step in bad["steps"]] == [True] * 5 + [False]
    assert "401" in bad["steps"][-1]["text"]
    assert "send valid credentials" in bad["steps"][-1]["advice"]
    assert SECRET not in out + err
