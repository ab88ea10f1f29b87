"""What is released: a wheel that needs websockets alone, and an sdist that makes the same one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from datastream_ws.testing import StreamServer
from kit.pages import ROOT, Block, steps
from kit.reader import feed

TIMEOUT = 120


def build(kind: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=TIMEOUT)
    [built] = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_first_example_runs_with_the_wheel_and_websockets_alone(
    wheel: Path, tmp_path: Path
) -> None:
    """In an empty environment: what else it imported would not be there."""
    python = installed(wheel, tmp_path / "environment")
    example = next(each.text for each in steps("README.md") if isinstance(each, Block))
    with StreamServer(on_message=feed) as server:
        code = example.replace("wss://api.example.com/stream", server.url)
        code = code.replace("def flag(message):\n", "def flag(message):\n    client.close()\n")
        done = subprocess.run(
            [python, "-I", "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "feature1 is now True\n", "")


def installed(wheel: Path, environment: Path) -> str:
    """Make an environment with the wheel and websockets, and nothing else; return its Python."""
    venv.create(environment, symlinks=True)
    [packages] = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:  # what installing comes to, for pure Python
        archive.extractall(packages)
    websockets = importlib.util.find_spec("websockets")
    assert websockets is not None
    assert websockets.submodule_search_locations
    (packages / "websockets").symlink_to(websockets.submodule_search_locations[0])
    return str(environment / "bin" / "python")


def test_the_sdist_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    import tarfile

    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.glob("datastream_ws-*")
    assert files(build("wheel", source, tmp_path / "again")) == files(wheel)
    for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "docs/index.md", "tests/conftest.py"):
        assert (source / name).is_file(), name


def files(wheel: Path) -> dict[str, int]:
    """Return names and checksums of what is in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.CRC for info in archive.infolist()}
