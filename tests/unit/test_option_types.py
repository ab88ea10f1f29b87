"""What editors show of an option is the sentence of the page."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from datastream_ws import ClientOptions, option_types

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/options.md").read_text(encoding="utf-8")


def docstrings() -> dict[str, str]:
    """Return the string below each annotation of the two TypedDicts."""
    found = {}
    for cls in ast.parse(inspect.getsource(option_types)).body:
        if isinstance(cls, ast.ClassDef) and cls.name in ("StreamOptions", "Options"):
            for field, text in zip(cls.body, cls.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert isinstance(field.target, ast.Name)
                    found[field.target.id] = str(ast.literal_eval(text.value))
    return {name: " ".join(text.split()) for name, text in found.items()}


def test_each_option_s_docstring_is_the_sentence_of_the_page() -> None:
    core = PAGE.partition("## In the frameworks")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| (.*) \|$", core, re.MULTILINE)
    without_links = {name: re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text) for name, text in rows}
    written = {name: text.replace("`", "``") for name, text in without_links.items()}
    assert docstrings() == written
    assert set(written) == set(ClientOptions.names())
