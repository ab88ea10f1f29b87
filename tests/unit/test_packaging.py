"""What `pip install datastream-ws` brings: one dependency, three typed packages and no more."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from importlib.resources import files
from pathlib import Path

import pytest

import datastream_ws

ROOT = Path(__file__).parents[2]
PACKAGES = {"datastream_ws", "datastream_ws_django", "datastream_ws_flask"}


def test_version_is_the_same_everywhere() -> None:
    assert datastream_ws.__version__ == version("datastream-ws")


def test_core_requires_websockets_alone() -> None:
    core = [line for line in requires("datastream-ws") or [] if "extra ==" not in line]
    assert core == ["websockets>=17.4"]


def test_bounds_are_lower_bounds() -> None:
    lines = [line.partition(";")[0] for line in requires("datastream-ws") or []]
    capped = [line for line in lines if any(sign in line for sign in ("<", "==", "~=", "!="))]
    assert capped == []


def test_core_is_typed() -> None:
    assert (files("datastream_ws") / "py.typed").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_wheel_holds_only_the_packages(wheel: list[str]) -> None:
    present = {name for name in PACKAGES if (ROOT / name / "__init__.py").exists()}
    assert {name.partition("/")[0] for name in wheel if ".dist-info/" not in name} == present


def test_every_package_in_the_wheel_is_typed(wheel: list[str]) -> None:
    packages = {name.partition("/")[0] for name in wheel if ".dist-info/" not in name}
    assert {f"{name}/py.typed" for name in packages} <= set(wheel)
