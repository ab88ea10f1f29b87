"""The arguments of the command line. No error shows a value, because it may be a secret."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..embedding import LONGEST_SECONDS, check_headers, check_url, peer_text
from ..runner import EXIT_USAGE

__all__ = ["parse"]

COMMANDS = ("listen", "replay", "check")
ANY_PORT = 65535
LISTEN_EXITS = """\
exit codes: 0 stopped, 1 a file or stdout cannot be used, 2 usage,
  3 gave up connecting, 4 a second Ctrl-C, or the shutdown took too long
"""


class Parser(argparse.ArgumentParser):
    """A parser that reports an error on one line, without the usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **settings,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {peer_text(message)} ({self.prog} --help)", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments, with the function of the command as ``run``. It may exit."""
    parser, commands = _parser()
    if not arguments:
        parser.error(f"no command given. Use {_commands()}.")
    first = next((each for each in arguments if not each.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        near = difflib.get_close_matches(first[:20], COMMANDS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Use {_commands()}."
        parser.error(f"unknown command. {hint}")
    wanted, rest = parser.parse_known_args(arguments)
    command = commands[wanted.command]
    if rest:
        command.error(_too_much(rest, command))
    # Checked last, because the value of an unknown option before the URL is taken for the URL.
    if wanted.command == "listen" and (wrong := check_url(wanted.url)):
        command.error(f"argument URL: {wrong}")
    return wanted


def _commands() -> str:
    *most, last = COMMANDS
    return f"{', '.join(most)} or {last}"


def _too_much(rest: Sequence[str], parser: argparse.ArgumentParser) -> str:
    unknown = next((each for each in rest if each.startswith("-")), None)
    if unknown is None:
        return "too many arguments. Quote values with spaces, such as -H 'Name: value'."
    option = unknown.partition("=")[0]
    if option in parser._option_string_actions:
        return f"{option} must follow the command: {parser.prog} … {option}"
    near = difflib.get_close_matches(option, parser._option_string_actions, n=1, cutoff=0.7)
    return f"unknown option {option}." + (f" Did you mean {near[0]}?" if near else "")


def _parser() -> tuple[Parser, dict[str, Parser]]:
    parser = Parser(
        prog="datastream-ws",
        description="Print, record and replay a WebSocket stream, or find out why it fails.",
    )
    parser.add_argument("--version", action="version", version=f"datastream-ws {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    return parser, {
        "listen": _listen(commands),
        "replay": _replay(commands),
        "check": _check(commands),
    }


def _listen(commands: Any) -> Parser:
    parser: Parser = commands.add_parser(
        "listen",
        help="Print a stream and keep reconnecting",
        description="Print a stream and keep reconnecting. On a terminal, the last line shows the "
        "state.\nIn a pipe, each message is a line of JSON, and events go to stderr. Each line of "
        "stdin,\ntyped or piped, is sent as a text message. The command continues after the end of "
        "stdin.",
        epilog=LISTEN_EXITS,
    )
    _add_connection(parser)
    add = parser.add_argument
    add("--send", metavar="JSON", type=_json, action="append", default=[],
        help="Send JSON, or the content of @FILE, on each connection (repeatable)")  # fmt: skip
    add("--send-text", metavar="TEXT", dest="send", action="append",
        help="Send a text that is not JSON on each connection (repeatable)")  # fmt: skip
    add("--no-input", dest="input", action="store_false",
        help="Don't send the lines of stdin")  # fmt: skip
    add("--route", metavar="NAME", dest="routes", action="append", default=[],
        help="Print only messages whose field `type` is NAME (repeatable)")  # fmt: skip
    add("--filter", metavar="TEXT", dest="filters", action="append", default=[],
        help="Print only messages that contain TEXT, or every TEXT if repeated")  # fmt: skip
    add("--record", metavar="FILE", help="Write a recording for `datastream-ws replay`")
    add("--max-messages", metavar="N", type=_count,
        help="Stop after N messages, including those that are not printed")  # fmt: skip
    add("--max-size", metavar="BYTES", type=_count, default=2**20,
        help="Accept messages of up to this size (default: %(default)s)")  # fmt: skip
    add("--max-reconnect-attempts", metavar="N", type=_count,
        help="Give up after N failed attempts in a row (default: no limit)")  # fmt: skip
    add("--min-reconnect-delay", metavar="S", type=_seconds, default=1.0,
        help="Wait at least S seconds before a retry (default: %(default)g)")  # fmt: skip
    add("--max-reconnect-delay", metavar="S", type=_seconds, default=30.0,
        help="Wait at most S seconds before a retry (default: %(default)g)")  # fmt: skip
    return _finish(parser, "listening", "listen")


def _replay(commands: Any) -> Parser:
    parser: Parser = commands.add_parser(
        "replay",
        help="Serve a recording with its timing and its drops",
        description="Serve a recording of `listen --record` to each client, with its timing.\n"
        "Where the recorded connection was lost, the client's connection is dropped. A client\n"
        "that reconnects continues at the same place.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="Serve the recording in FILE")
    add("--port", metavar="P", type=_port, default=8765,
        help="Listen on port P, or on any free port with 0 (default: %(default)s)")  # fmt: skip
    add("--host", metavar="ADDRESS", default="127.0.0.1",
        help="Listen on this address (default: %(default)s, only this machine)")  # fmt: skip
    add("--speed", metavar="X", type=_speed, default=1.0,
        help="Play X times as fast; inf never waits (default: %(default)g)")  # fmt: skip
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument(
        "--once", action="store_true", help="Exit once a client has received everything"
    )
    ending.add_argument("--loop", action="store_true", help="Start again at the end")
    return _finish(parser, "replaying", "replay")


def _check(commands: Any) -> Parser:
    parser: Parser = commands.add_parser(
        "check",
        help="Find out step by step why a stream cannot be reached",
        description="Test the connection step by step, from the URL to a ping, and explain how to "
        "fix a problem.",
        epilog="exit codes: 0 passed, 1 failed, 2 usage",
    )
    _add_connection(parser)
    add = parser.add_argument
    add("--timeout", metavar="S", type=_seconds, default=10.0,
        help="Wait up to S seconds for each step (default: %(default)g)")  # fmt: skip
    add("--json", dest="as_json", action="store_true", help="Print one JSON object at the end")
    return _finish(parser, "checking", "check")


def _add_connection(parser: Parser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", type=_from_file,
        help="Connect to this ws:// or wss:// URL, or to the one in @FILE, which hides it"
        " from `ps`")  # fmt: skip
    add("-H", "--header", metavar="'NAME: VALUE'", dest="headers", action=_Headers, default={},
        help="Send a header, or those of @FILE, one per line (repeatable)")  # fmt: skip
    add("--subprotocol", metavar="NAME", dest="subprotocols", action="append", default=[],
        help="Offer a subprotocol (repeatable)")  # fmt: skip
    # The same names as in curl.
    add("--cacert", "--cafile", metavar="FILE", dest="cacert",
        help="Trust the CA certificate in FILE (PEM)")  # fmt: skip
    add("--cert", metavar="FILE", help="Use the client certificate in FILE (PEM)")
    add("--key", metavar="FILE", help="Use the private key in FILE (default: the file of --cert)")
    add("--proxy-cacert", metavar="FILE",
        help="Trust the CA certificate in FILE for an https:// proxy (PEM)")  # fmt: skip


def _finish(parser: Parser, module: str, function: str) -> Parser:
    parser.add_argument("-v", "--verbose", action="store_true", help="Show the log and tracebacks")

    def run(wanted: argparse.Namespace) -> int:
        from importlib import import_module

        command: Callable[[argparse.Namespace], int]
        command = getattr(import_module(f"datastream_ws.cli.{module}"), function)
        return command(wanted)

    parser.set_defaults(run=run)
    return parser


# --- values ----------------------------------------------------------------------------------


class _Headers(argparse.Action):
    """An action that collects headers."""

    def __call__(self, parser: Any, wanted: Any, values: Any, option: Any = None) -> None:
        try:
            found = headers(values)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(wanted, self.dest, {**getattr(wanted, self.dest), **found})


def headers(text: str) -> dict[str, str]:
    """Return the headers of one ``-H``."""
    lines = _content(text).splitlines() if text.startswith("@") else [text]
    found: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError("must be 'Name: value', in quotes")
        found[name.strip()] = value.strip(" \t")
    if wrong := check_headers(found):
        raise argparse.ArgumentTypeError(wrong)
    return found


def _content(text: str) -> str:
    """Return the content of the file in ``@FILE``."""
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text[1:]}: {error.strerror}") from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[1:]}: is not UTF-8") from None


def _json(text: str) -> str:
    """Return the text unchanged if it's JSON. Without quotes, a shell changes it."""
    text = _content(text) if text.startswith("@") else text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(
            "is not valid JSON. Put it in single quotes, or use --send-text."
        ) from None
    return text


def _from_file(text: str) -> str:
    """Return the text, or the content of the file in ``@FILE``."""
    return _content(text).strip() if text.startswith("@") else text


def _count(text: str) -> int:
    return int(_number(text, int, lambda n: n >= 1, "must be a whole number of at least 1"))


def _port(text: str) -> int:
    good = f"must be a port, 0 to {ANY_PORT}"
    return int(_number(text, int, lambda n: 0 <= n <= ANY_PORT, good))


def _speed(text: str) -> float:
    return float(_number(text, float, lambda n: n > 0, "must be a number above 0"))


def _seconds(text: str) -> float:
    good = "must be a number of seconds above 0"
    return float(_number(text, float, lambda n: 0 < n <= LONGEST_SECONDS, good))


def _number(text: str, kind: type[Any], good: Callable[[Any], bool], wrong: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not good(number):
        raise argparse.ArgumentTypeError(wrong)
    return number
