"""
Another engine under every client that names none: in this process and in those it starts.

    make test ARGS="--engine picows tests/acceptance"     # everything over picows
    @pytest.mark.both_engines                              # this test, over either, in every run

An option of the clients stays what a test says it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datastream_ws import ClientOptions

ENGINES = ("websockets", "picows")
VARIABLE = "DATASTREAM_TEST_ENGINE"
CHILDREN = Path(__file__).with_name("children")  # what other processes import first

__all__ = ["ENGINES", "by_default", "set_default"]


def set_default(engine: str) -> None:
    """Make *engine* the default of the option."""
    defaults = ClientOptions.__init__.__kwdefaults__
    assert defaults is not None
    defaults["engine"] = engine


@contextmanager
def by_default(engine: str) -> Iterator[None]:
    """Make *engine* the default here and in every process started meanwhile."""
    if engine == "websockets":
        yield
        return
    pytest.importorskip(engine)
    path = os.pathsep.join(filter(None, [str(CHILDREN), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, engine)
        patch.setenv("PYTHONPATH", path)
        set_default(engine)
        try:
            yield
        finally:
            set_default("websockets")
