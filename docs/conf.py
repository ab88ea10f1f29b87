"""How the pages are made: ``make docs``. Warnings are errors, and nothing is fetched."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import django
from bs4 import BeautifulSoup  # Furo needs it, too
from django.conf import settings

import datastream_ws

# Django's models are only importable with settings.
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "datastream_ws_django",
    ],
    DATASTREAMS={},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

project = "datastream-ws"
author = "datastream-ws contributors"
copyright = author
version = release = datastream_ws.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "images"]

# --- Markdown ---
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3  # links to headings are checked, as [text](page.md#heading)

# --- the reference, from docstrings ---
autodoc_member_order = "bysource"
autodoc_mock_imports = ["django.tasks"]  # of Django 6.0; the pages are made with any
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]

# A name in a docstring or signature that leads nowhere is an error, but for what others document.
nitpicky = True
suppress_warnings = ["ref.python"]  # three classes are called Client; the first is linked
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(asyncio|collections|concurrent|django|enum|flask|http|logging|ssl|types|typing)\..*",
    ),
    ("py:.*", r"(opentelemetry|prometheus_client|websockets)\..*"),
    ("py:class", r"(tuple|Mapping)\[.*"),  # a default of a tuple's type is cut at its comma
    # What annotations of ours name and the pages do not show.
    (
        "py:class",
        r"datastream_ws\.handlers\.(BatchFunction|Decorators|DisconnectHook|ErrorHook|Factory|GapHook|Hook|MessageFunction|Per|R|StateHook|T)",
    ),
    (
        "py:class",
        r"datastream_ws\.(client\.Queued|health\.StreamHealth|schematic\.(EntityDecorators|F))",
    ),
    (
        "py:class",
        r"datastream_ws\.(option_types\.(Options|StreamOptions)|routing\.(Handler|Routing))",
    ),
    ("py:class", r"datastream_ws\.testing\.(record\.Attempt|loop\.LoopOnThread)"),
    ("py:class", r"datastream_ws_django\.conf\.StreamSettings"),
    ("py:class", r"datastream_ws\.runner\.Runnable"),
    ("py:exc", "ImproperlyConfigured"),  # of Django
    ("py:class", "(Handler|Queued|Task)"),  # Task: of Django 6, which Python 3.11 has not
]

# --- looks ---
html_theme = "furo"
html_title = "datastream-ws"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"

FENCE_WITH_TITLE = re.compile(r'^(`{3,})(\w+) title="([^"]+)"$', re.MULTILINE)


def as_sphinx_has_it(app: object, page: str, source: list[str]) -> None:
    """
    Turn what is written for GitHub into what Sphinx knows.

    ```python title="app.py"``` gets a caption; links to files outside of docs/ become their text.
    """
    text = FENCE_WITH_TITLE.sub(r"\1{code-block} \2\n:caption: \3\n", source[0])
    up = r"\.\./" * (page.count("/") + 1)
    if page == "reference/options":  # anchors: #option-lease, #setting-ATOMIC
        text = re.sub(r"^\| `([a-z_]+)` \|", r"| `\1`{#option-\1} |", text, flags=re.MULTILINE)
        text = re.sub(r"^\| `([A-Z_]+)` \|", r"| `\1`{#setting-\1} |", text, flags=re.MULTILINE)
    source[0] = re.sub(rf"(?<!!)\[([^]]+)\]\({up}[^)]*\)", r"\1", text)


written: list[str] = []


def keep_docstring(
    app: object, what: str, name: str, obj: object, opts: object, lines: list[str]
) -> None:
    written[:] = lines


def restore_docstring(
    app: object, what: str, name: str, obj: object, opts: object, lines: list[str]
) -> None:
    """A property's "text: more text" is a sentence here; napoleon takes it for "type: text"."""
    if what in ("property", "attribute") and any(line.startswith(":type:") for line in lines):
        lines[:] = written


def label_cells(
    app: object, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Write the name of its column into each cell: pages.css shows it where tables stack."""
    if "<table" not in context.get("body", ""):
        return
    body = BeautifulSoup(context["body"], "html.parser")
    for table in body.find_all("table"):
        names = [each.get_text(" ", strip=True) for each in table.select("thead th")]
        for row in table.select("tbody tr"):
            for name, cell in zip(names, row.find_all("td"), strict=False):
                cell["data-label"] = name
                if not cell.get_text(strip=True) and cell.find("img") is None:
                    cell.clear()  # the paragraph without text in it: pages.css hides an empty cell
    context["body"] = str(body)


def setup(app: Any) -> None:
    app.connect("html-page-context", label_cells)
    app.connect("source-read", as_sphinx_has_it)
    app.connect("autodoc-process-docstring", keep_docstring, priority=100)
    app.connect("autodoc-process-docstring", restore_docstring, priority=900)
