"""Where a worker keeps what waits for the broker: in a directory that nobody else can change."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

import pytest

from datastream_ws.celery.config import spool_path

ROOT_ONLY = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to give files away"
)
ANOTHER_USER = 12345


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The better place; the temporary folder, where everybody may write, is the other one."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return tmp_path / "state"


@pytest.fixture
def fallback(state: Path, tmp_path: Path) -> Path:
    """The directory in the temporary folder, not there yet; the better place is a file."""
    state.write_text("in the way")
    return tmp_path / "tmp" / f"datastream-ws-{os.getuid()}"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_state_directory_is_for_this_user_only(state: Path) -> None:
    old = os.umask(0)
    try:
        path = spool_path("proj", "celery@host")
    finally:
        os.umask(old)
    assert path == str(state / "datastream-ws/proj/celery@host.{name}.spool")
    assert mode(state / "datastream-ws") == mode(state / "datastream-ws/proj") == 0o700


def test_what_others_may_read_is_closed_to_them(state: Path) -> None:
    (state / "datastream-ws/proj").mkdir(parents=True)
    (state / "datastream-ws").chmod(0o755)
    assert spool_path("proj", "n") == str(state / "datastream-ws/proj/n.{name}.spool")
    assert mode(state / "datastream-ws") == 0o700


def test_the_temporary_folder_comes_next(fallback: Path) -> None:
    assert spool_path("proj", "n") == str(fallback / "proj/n.{name}.spool")
    assert mode(fallback) == mode(fallback / "proj") == 0o700


@pytest.mark.parametrize("part", ["", "proj"])
def test_a_link_in_its_place_is_not_used(
    fallback: Path, tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (fallback / part).parent.mkdir(exist_ok=True, mode=0o700)
    (fallback / part).symlink_to(elsewhere)
    assert spool_path("proj", "n") is None
    assert "a symbolic link" in caplog.text
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("bits", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("part", ["", "proj"])
def test_one_that_others_may_write_to_is_not_used(fallback: Path, part: str, bits: int) -> None:
    fallback.mkdir(mode=0o700)
    (fallback / part).mkdir(exist_ok=True)
    (fallback / part).chmod(bits)
    assert spool_path("proj", "n") is None
    assert mode(fallback / part) == bits


@ROOT_ONLY
@pytest.mark.parametrize("part", ["", "proj"])
def test_one_of_another_user_is_not_used(fallback: Path, part: str) -> None:
    (fallback / part).mkdir(parents=True, mode=0o700)
    os.chown(fallback / part, ANOTHER_USER, ANOTHER_USER)
    assert spool_path("proj", "n") is None
