"""
The English of the pages, by a few rules that a program can check; run by ``make lint``.

    python tests/prose.py                    # all pages and modules
    python tests/prose.py docs/cli.md        # any page: what would have to change

Every page and every module but the tests is held to these rules: words that the field has other
words for, American spelling, one idea a sentence (at most 25 words, one colon or semicolon), no
"we" and no "nobody", and on the pages of users nothing that only contributors know.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MOST_WORDS = 25

PAGES = sorted(
    {"README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    | {"benchmarks/README.md", "changes/README.md", "example_project/README.md"}
    | {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("**/*.md")}
)
MODULES = sorted(
    module.relative_to(ROOT).as_posix()
    for folder in (
        *("datastream_ws", "datastream_ws_django", "datastream_ws_flask"),
        *("example_project", "benchmarks", "tests/kit"),
    )
    for module in (ROOT / folder).rglob("*.py")
)
# Pages for contributors, and the part of a page that is an appendix for them.
CONTRIBUTORS = {"CONTRIBUTING.md", "benchmarks/README.md", "changes/README.md"}
CONTRIBUTORS |= {"docs/architecture.md", "docs/fault-tests.md"}
APPENDIX = re.compile(r"^## How (these guarantees are|this is) tested$", re.MULTILINE)

# What the field says otherwise -> what it says.
USE = {
    r"\b(connect|dial|start|begin)(s|ed|ing)? anew\b": "reconnect, connect again",
    r"\b(handled|tried) (once more|again once)\b": "retried once",
    r"\bfor ever\b": "forever, no limit, indefinitely",
    r"\bwithout end\b": "forever, no limit, indefinitely",
    r"\bback-off\b": "backoff",
    r"\bback pressure\b": "backpressure",
    r"\borderly (end|shutdown)\b": "shutdown",
    r"\bfail-over\b": "failover",
    r"\b(by itself|of its own accord)\b": "automatically, built in",
    r"\b(hands?|handed|gives?|given|gave) (it |them )?(on )?to (a|the) (handler|task)": "passes to",
    r"\bhands? (it|them|\w+) on\b": "passes",
    r"\bwithout a word\b": "lost, disconnected, unavailable",
    r"\bsays nothing\b": "is unreachable, does not respond",
    r"\bwrong key\b": "invalid API key, invalid credentials",
    r"\bsomebody else's\b": "the server's",
    r"\blinks? in the place of\b": "symbolic link",
    r"\bthe cure\b": "the fix",
    r"\bfigures\b": "metrics, counters",
    r"\bis over\b": "expires, elapses",
    r"\braises? an alarm\b": "alert on",
    r"\bis no (URL|option|\w+ path)\b": "is not a …",
    r"\b(thus|but for|of course)\b": "so, except, because",
    r", also (after|before|behind|for|if|in|on|under|when|while)\b": "even, including",
    r", for (?=[a-z]+ (is|are|has|have|does|would|may|can|cannot)\b)": "because",
    r"\bplain (handler|hook|function)s?\b": "synchronous handler",
    r"\bis at work\b": "is running",
    r"\b(may|might) stand\b": "you can set",
    r"\ba Python ≥": "Python … or later",
    r"Python ≥": "Python … or later",
    # Software is no person.
    r"\bthe (client|server|runner|worker|log|command|stream) (says|tells|knows|looks after)\b":
        "reports, logs, raises, verifies",
    r"\b(vouch(es)? for|mends?|mended)\b": "verify, fix, recover",
    # Who speaks, and to whom.
    r"\b(we|us|ours?)\b": "you, the client, the package",
    r"\b(nobody|somebody|whoever)\b": "name who it is",
    # American English.
    r"\b(behaviour|colour|favour|honour)(s|ed|ing)?\b": "behavior, color",
    r"\b(cancelled|cancelling|labelled|dialling|travelled)\b": "canceled",
    r"\blicence\b": "license",
    r"\b(serial|recogn|organ|initial|normal|optim|synchron|util|minim)is(e|es|ed|ing)\b": "-ize",
}  # fmt: skip
PATTERNS = [(re.compile(pattern, re.IGNORECASE), use) for pattern, use in USE.items()]
# Comments that tools read.
DIRECTIVE = re.compile(r"(noqa|type:|pragma|fmt:|mypy:|pyright:|ruff:|---)")
# What only contributors know.
INTERNAL = [
    (re.compile(r"\btest_\w+(\.py|::)"), "a test's name: into an appendix"),
    (re.compile(r"\bthe contract\b", re.IGNORECASE), "no user's word"),
    (re.compile(r"\bissue #?\d+\b", re.IGNORECASE), "an issue's number"),
]


class Remark(NamedTuple):
    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


# --- a page's prose ---------------------------------------------------------------------------


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of Markdown, each with the number of its first line."""
    lines = without_code(text).split("\n")
    begun, held = 0, ""
    for number, line in enumerate([*lines, ""], 1):
        stripped = line.strip()
        starts = re.match(r"([-*+]|\d+\.|#+|\||:) ?", stripped)
        if held and (not stripped or starts):
            yield begun, held
            held = ""
        if stripped and stripped != "---":
            begun = begun if held else number
            held = f"{held} {stripped}".strip()


def without_code(text: str) -> str:
    """Blank what is no prose, and keep the lines: fences, comments, code, addresses, images."""
    text = re.sub(r"^(`{3,}|:{3,}).*?^\1", blank, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|<[^>\n]+>", blank, text, flags=re.DOTALL)
    text = re.sub(r"``.+?``|`[^`\n]+`", "x", text)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    return re.sub(r"\[([^]]*)\]\([^)\n]*\)", r"\1", text)


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def sentences(paragraph: str) -> list[str]:
    text = re.sub(r"^([-*+]|\d+\.|#+|:) ", "", paragraph)
    text = text.replace("**", "")
    text = re.sub(r"\b(e\.g|i\.e|vs|etc|Mr)\.", r"\1", text)
    return [each for each in re.split(r"(?<=[.!?])\s+(?=[A-Z`x(])", text) if each]


# --- the rules --------------------------------------------------------------------------------


def remarks(paragraph: str, is_user: bool) -> Iterator[str]:
    """Yield what is wrong with a paragraph, a cell of a table or a docstring's part."""
    for pattern, use in [*PATTERNS, *(INTERNAL if is_user else ())]:
        for found in pattern.finditer(paragraph):
            yield f"“{found[0].strip()}”: {use}"
    if paragraph.startswith(("|", "#")):
        return
    for sentence in sentences(paragraph):
        yield from remarks_on(sentence)


def remarks_on(sentence: str) -> Iterator[str]:
    words = re.findall(r"[\w'’.]+", sentence)
    begins = " ".join(words[:5])
    if len(words) > MOST_WORDS:
        yield f"{len(words)} words, at most {MOST_WORDS}: “{begins} …”"
    if len(re.findall(r"[:;](?=\s)", sentence)) > 1:
        yield f"more than one colon or semicolon: “{begins} …”"
    if (
        re.match(r"What (?!is |are |does |do |if |happens )[a-z]+", sentence)
        and "?" not in sentence
    ):
        yield f"a clause as subject: “{begins} …”"


def of_page(path: str) -> Iterator[Remark]:
    text = (ROOT / path).read_text(encoding="utf-8")
    appendix = APPENDIX.search(text)
    ends = text[: appendix.start()].count("\n") if appendix else sys.maxsize
    for line, paragraph in prose(raw_names_kept(text) if path not in CONTRIBUTORS else text):
        for each in remarks(paragraph, path not in CONTRIBUTORS and line <= ends):
            yield Remark(path, line, each)


def raw_names_kept(text: str) -> str:
    """Lift the names of tests out of their backquotes, so that they are seen."""
    return re.sub(r"`([\w/]*test_\w+\.py[^`]*)`", r"\1", text)


def of_module(path: str) -> Iterator[Remark]:
    """Yield the remarks on the docstrings and the comments of a module."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for line, written in docstrings(ast.parse(text)):
        if re.search(r"\bSee :\w+:`~?\.?(AsyncClient|Client)\.", written):
            yield Remark(path, line, "a docstring stands where the reader is")
        written = re.sub(r"::\n\n(?:(?: {4}.*)?(?:\n|\Z))+", "\n\n", written)  # literal blocks
        before = re.split(r"\n(?:Example|Args|Attributes|Raises|Returns|Source)::?\n", written)
        for _, paragraph in prose(before[0].replace("    ", "")):
            for each in remarks(re.sub(r":\w+:x", "x", paragraph), is_user=False):
                yield Remark(path, line, each)
    for line, paragraph in comments(text):
        for each in remarks(paragraph, is_user=False):
            yield Remark(path, line, each)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs and list items of each comment, each with its last line's number."""
    held, last = "", -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        words = token.string.lstrip("#: ")
        if token.type != tokenize.COMMENT or DIRECTIVE.match(words):
            continue
        line = token.start[0]
        starts = not words or re.match(r"([-*+]|\d+\.) ", words)
        goes_on = line == last + 1 and token.line.lstrip().startswith("#") and not starts
        if held and not goes_on:
            yield last, held
        held, last = f"{held} {words}" if goes_on else words, line
    if held:
        yield last, held


def check(paths: Iterable[str]) -> list[Remark]:
    return [
        each for path in paths for each in (of_module if path.endswith(".py") else of_page)(path)
    ]


def main() -> int:
    paths = sys.argv[1:] or [*PAGES, *MODULES]
    found = check(paths)
    print("\n".join(map(str, found)) or f"tests/prose.py: {len(paths)} texts")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
