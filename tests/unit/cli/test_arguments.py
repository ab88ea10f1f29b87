"""What is said of a wrong command line: one line, what to do, and no value of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from datastream_ws.cli.arguments import parse

URL = "ws://127.0.0.1/"
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no command given. Use listen, replay or check."),
        (["lisen", URL], "Did you mean listen?"),
        (["-v", "listen", URL], "-v must follow the command: datastream-ws listen … -v"),
        ([f"wss://x/?token={SECRET}"], "unknown command. Use listen, replay or check."),
        (["listen"], "required: URL"),
        (["listen", f"https://x/?token={SECRET}"], "URL: must start with ws:// or wss://"),
        (["listen", f"ws://user:{SECRET}@x"], "Send credentials in headers"),
        (["listen", URL, "-H", "Authorization:", "Bearer", SECRET], "-H 'Name: value'"),
        (["listen", URL, "-H", f"Bearer {SECRET}"], "-H/--header: must be 'Name: value'"),
        (["listen", URL, "-H", f"A: {SECRET}\r\nB: c"], "contains a line break"),
        (["listen", URL, "-H", "@/nowhere"], "/nowhere: No such file"),
        (["listen", "@/nowhere"], "/nowhere: No such file"),
        (["check", "@/nowhere"], "/nowhere: No such file"),
        (["listen", URL, f"--sned={SECRET}"], "unknown option --sned. Did you mean --send?"),
        (["listen", "--count", "3", URL], "unknown option --count"),
        (["listen", URL, "--send", f"{{key:{SECRET}}}"], "--send: is not valid JSON"),
        (["listen", URL, "--max-messages", "0"], "--max-messages: must be a whole number"),
        (["listen", URL, "--max-size", "1k"], "--max-size: must be a whole number"),
        (["replay"], "required: FILE"),
        (["replay", "f", "--port", "99999"], "--port: must be a port"),
        (["replay", "f", "--speed", "0"], "--speed: must be a number above 0"),
        (["replay", "f", "--speed", "nan"], "--speed: must be a number above 0"),
        (["replay", "f", "--once", "--loop"], "not allowed with"),
        (["check", URL, "--timeout", "inf"], "--timeout: must be a number of seconds"),
        (["check", URL, "--timeout", "nan"], "--timeout: must be a number of seconds"),
        (["check", URL, "--timeout", "1e300"], "--timeout: must be a number of seconds"),
        (["check", URL, "\x1b[2J", "--ne\x1b[2Jw"], r"unknown option --ne\x1b[2Jw"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert says in err
    assert err.startswith("datastream-ws")
    assert err.count("\n") == 1
    assert "--help)" in err
    assert SECRET not in err
    assert "\x1b" not in err


@pytest.mark.parametrize("command", ["listen", "check"])
def test_a_url_is_read_from_a_file(command: str, tmp_path: Path) -> None:
    """So that `ps` shows no secret of its query."""
    path = tmp_path / "url"
    path.write_text(f"wss://example.com/?token={SECRET}\n", encoding="utf-8")
    assert parse([command, f"@{path}"]).url == f"wss://example.com/?token={SECRET}"


def test_a_wrong_url_in_a_file_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "url"
    path.write_text(f"https://example.com/?token={SECRET}", encoding="utf-8")
    with pytest.raises(SystemExit):
        parse(["listen", f"@{path}"])
    said = capsys.readouterr().err
    assert "must start with ws:// or wss://" in said
    assert SECRET not in said


def test_headers_and_messages_are_collected_in_order(tmp_path: Path) -> None:
    secrets = tmp_path / "headers"
    secrets.write_text("Authorization: Bearer 1\n\nX-Key:2\n", encoding="utf-8")
    message = tmp_path / "message.json"
    message.write_text('{"type": "subscribe"}', encoding="utf-8")
    headers = ["-H", f"@{secrets}", "-H", "X-Key: 3", "--header", "Empty:"]
    messages = ["--send", f"@{message}", "--send-text", "hello", "--send", '"x"']
    wanted = parse(["listen", URL, *headers, *messages])
    assert wanted.headers == {"Authorization": "Bearer 1", "X-Key": "3", "Empty": ""}
    assert wanted.send == ['{"type": "subscribe"}', "hello", '"x"']
    assert parse(["listen", URL]).headers == {}
    assert parse(["listen", URL]).send == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("datastream-ws ")
