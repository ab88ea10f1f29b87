"""What `pip install datastream-ws` brings: one dependency, three typed packages and no more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires, version
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import datastream_ws
from kit.services import SERVICES

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


# --- what is said in more than one place ------------------------------------------------------


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def pythons() -> list[str]:
    """The versions that the classifiers name."""
    classifiers = tomllib.loads(text("pyproject.toml"))["project"]["classifiers"]
    return re.findall(r"Python :: (3\.\d+)", " ".join(classifiers))


def test_the_matrix_is_what_the_classifiers_say() -> None:
    matrix = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == pythons()
    assert f"PYTHONS = {pythons()!r}".replace("'", '"') in text("noxfile.py")


def steps(workflow: str) -> list[str]:
    """Return the commands of a workflow, the matrix of its job filled in by `part`."""
    found = []
    for job in yaml.safe_load(text(workflow))["jobs"].values():
        parts = job.get("strategy", {}).get("matrix", {}).get("part", [""])
        runs = [step["run"] for step in job["steps"] if "run" in step]
        found += [run.replace("${{ matrix.part }}", part) for run in runs for part in parts]
    return found


def test_ci_is_defined_once() -> None:
    """The workflow calls the parts of .ci/run and nothing else, and leaves none of them out."""
    runs = steps(".github/workflows/ci.yml")
    assert [run for run in runs if not run.startswith(".ci/run ")] == []
    [gate] = re.findall(r"\|\| set -- (.+)$", text(".ci/run"), re.MULTILINE)
    called = {run.split()[1] for run in runs}
    assert called == {*gate.split(), "versions"}
    assert called - {"versions"} == set(re.findall(r"^    (\w+)\)", text(".ci/run"), re.MULTILINE))


def test_the_workflow_runs_every_session_of_nox() -> None:
    sessions = set(re.findall(r"@nox\.session.*\n(?:@.*\n)*def (\w+)", text("noxfile.py")))
    runs = " ".join(steps(".github/workflows/ci.yml"))
    assert set(re.findall(r'versions "?(\w+)', runs)) == sessions


def test_an_unknown_part_of_ci_is_refused() -> None:
    done = subprocess.run([ROOT / ".ci/run", "tests"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: .ci/run" in done.stderr


def test_the_lock_file_has_what_development_needs() -> None:
    """Each name, that is: whether its version is the newest is Dependabot's business."""
    project = tomllib.loads(text("pyproject.toml"))
    groups = project["dependency-groups"]
    lists = [
        project["project"]["dependencies"],
        *(groups[each] for each in ("test", "lint", "docs")),
    ]
    wanted = {re.split(r"[\[>=;< ]", line)[0].lower() for lines in lists for line in lines}
    locked = set(re.findall(r"^([\w.-]+)==", text("requirements/dev.txt"), re.MULTILINE))
    assert wanted - locked == set()
    assert "://" not in text("requirements/dev.txt")


def test_an_environment_made_by_uv_has_pip(tmp_path: Path) -> None:
    """CONTRIBUTING.md tells to run it, and uv leaves it out unless asked."""
    uv, calls = tmp_path / "bin/uv", tmp_path / "calls"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\necho "$*" >> {calls}\necho --group\nmkdir -p .venv\n')
    uv.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    path = f"{uv.parent}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "install", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=tmp_path, env={"PATH": path}, check=True, timeout=60)
    [made] = [each for each in calls.read_text().splitlines() if each.startswith("venv ")]
    assert "--seed" in made.split()


def test_the_makefile_looks_for_every_python_newest_first() -> None:
    [names] = re.findall(r"\$\(or \$\(PYTHON\),([^)]+)\)", text("Makefile"))
    newest_first = sorted(pythons(), key=lambda each: int(each[2:]), reverse=True)
    assert names.split() == [*(f"python{each}" for each in newest_first), "python3"]


@pytest.mark.parametrize("path", ["docker-compose.yml", ".github/workflows/ci.yml"])
def test_services_are_where_the_tests_look(path: str) -> None:
    content = yaml.safe_load(text(path))
    services = content.get("services") or content["jobs"]["tests"]["services"]
    ports = {int(port.rpartition(":")[2]) for each in services.values() for port in each["ports"]}
    assert ports == {service.port for service in SERVICES.values()}
    assert all("health" in str(each) for each in services.values())


def test_the_release_is_built_once_and_published_without_a_token() -> None:
    jobs = yaml.safe_load(text(".github/workflows/release.yml"))["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in text(".github/workflows/release.yml")


def test_what_builds_a_release_is_pinned_by_hash() -> None:
    """The build backend, too, which an isolated build would fetch by itself."""
    runs = " && ".join(steps(".github/workflows/release.yml"))
    assert re.findall(r"pip install (.+?) && ", runs) == [
        "--require-hashes --only-binary=:all: -r requirements/release.txt"
    ]
    assert re.findall(r"-m build(.*?) && ", runs) == [" --no-isolation"]
    pins = re.findall(r"^(\S+)==\S+ \\\n    --hash=sha256:", text("requirements/release.txt"), re.M)
    project = tomllib.loads(text("pyproject.toml"))
    wanted = project["dependency-groups"]["release"] + project["build-system"]["requires"]
    assert {re.split(r"[>=]", each)[0] for each in wanted} <= set(pins)
    assert len(pins) == text("requirements/release.txt").count("==")
    assert "://" not in text("requirements/release.txt")


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_actions_are_pinned_by_commit(name: str) -> None:
    """A tag can be moved."""
    jobs = yaml.safe_load(text(f".github/workflows/{name}"))["jobs"].values()
    used = [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
    assert used
    assert [each for each in used if not re.search(r"@[0-9a-f]{40}$", each)] == []
