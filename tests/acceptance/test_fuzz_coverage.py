"""
Bytes from a server, chosen by coverage, for as long as ``FUZZ_SECONDS`` says.

``pip install --group fuzz``, then ``make test ARGS="-m fuzz"``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.rawserver import BINARY, CONTINUATION, PING, TEXT, Close, Frame

TESTS = Path(__file__).parents[1]
SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
LONGEST = 400  # bytes of a stream

STREAM = b"".join(
    frame.data
    for frame in (
        Frame(TEXT, "hi"),
        Frame(BINARY, b"a", fin=False),
        Frame(PING, "?"),
        Frame(CONTINUATION, b"b"),
        Frame(TEXT, b"\xcaH\xcd\xc9\xc9\x07\x00", rsv=4),
        Close(1001, "bye"),
    )
)
ANSWER = (
    b"HTTP/1.1 503 No\r\nRetry-After: 5\r\nLocation: /x\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n\r\n"
)


@pytest.mark.fuzz
@pytest.mark.timeout(SECONDS + 120)
def test_the_engine_understands_what_the_reference_understands(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed: pip install --group fuzz")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for n in range(4):  # see fuzztarget: stream or answer, compression
        (corpus / f"{n}").write_bytes(bytes([n, 5]) + (ANSWER if n & 1 else STREAM))
    options = [f"-max_total_time={SECONDS}", f"-max_len={LONGEST}", f"-artifact_prefix={tmp_path}/"]
    run = subprocess.run(
        [sys.executable, "-m", "kit.fuzztarget", *options, str(corpus)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=SECONDS + 100,
    )
    print(run.stderr[-3000:])
    found = [path.read_bytes() for path in tmp_path.glob("crash-*")]
    assert (run.returncode, found) == (0, [])
