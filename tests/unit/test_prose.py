"""The linter for English finds what it names, and leaves alone what is no prose."""

from __future__ import annotations

import pytest

import prose

LONG = "The client " + "really " * 25 + "reconnects."


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("The client connects anew.", "reconnect, connect again"),
        ("It waits for ever.", "forever"),
        ("A plain handler runs on a thread.", "synchronous handler"),
        ("The server tells nothing.", "reports"),
        ("You need a Python ≥ 3.11.", "or later"),
        ("We reconnect.", "you, the client"),
        ("The behaviour is the same.", "behavior"),
        ("A canceled task is cancelled.", "canceled"),
        ("It works, also in a fork.", "even, including"),
        ("What is unhandled waits.", None),
        ("What nobody handled waits.", "a clause as subject"),
        ("Options: one, two; three.", "more than one colon or semicolon"),
        (LONG, "28 words, at most 25"),
        ("`test_lease.py::test_kill` shows it.", "an appendix"),
        ("As the contract says.", "no user's word"),
        ("| a | handled once more |", "retried once"),
        ("The client reconnects after every drop.", None),
        ("```python\nfor ever\n```", None),
        ("Call `for_ever()` or <https://example.com/for-ever>.", None),
        ("<!-- Ctrl-C: anew -->", None),
        ("| " + "word " * 40 + "|", None),
    ],
)
def test_remarks_on_a_page(
    text: str,
    remark: str | None,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "page.md").write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    monkeypatch.setattr(prose, "ROOT", folder)
    found = [each.text for each in prose.of_page("page.md")]
    assert bool(found) == (remark is not None), found
    assert remark is None or any(remark in each for each in found), found


def test_an_appendix_may_name_tests() -> None:
    page = "docs/guarantees.md"
    assert "::test_" in (prose.ROOT / page).read_text(encoding="utf-8")
    assert prose.check([page]) == []


def test_the_line_of_a_remark_is_that_of_its_paragraph() -> None:
    text = "# A\n\n```sh\nx\ny\n```\n\nGood.\n\nIt waits for\never.\n"
    lines = {paragraph: line for line, paragraph in prose.prose(text)}
    assert lines["It waits for ever."] == 10


def test_docstrings_and_comments(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("modules")
    code = """
def run():
    \"\"\"See :meth:`AsyncClient.run`; blocks.\"\"\"
def _within():
    \"\"\"Dial anew.\"\"\"
    # It waits
    # for ever.
    return 1  # noqa: for ever
x = 1  # Good.
# Good.
"""
    (folder / "module.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(prose, "ROOT", folder)
    assert [each.line for each in prose.of_module("module.py")] == [2, 4, 7]


def test_the_items_of_a_list_in_a_comment_are_no_one_sentence() -> None:
    words = "the token of the process" + " and more" * 9
    code = f"# ARGV:\n# 1. {words}\n#    a: b\n# 2. {words}\n#\n# For ever.\n"
    assert list(prose.comments(code)) == [
        (1, "ARGV:"),
        (3, f"1. {words} a: b"),
        (4, f"2. {words}"),
        (6, " For ever."),
    ]
