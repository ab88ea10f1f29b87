"""Imported by every process that a test with another default engine starts; see kit/engine.py."""

from __future__ import annotations

import os

if engine := os.environ.get("DATASTREAM_TEST_ENGINE"):
    from datastream_ws import ClientOptions

    assert ClientOptions.__init__.__kwdefaults__ is not None
    ClientOptions.__init__.__kwdefaults__["engine"] = engine
