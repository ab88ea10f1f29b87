"""
Test the supported versions of Python and of the dependencies. Run ``pip install nox`` first.

    nox --list                              # list the sessions
    nox -s tests                            # every Python with every Django and Celery
    nox -s "tests-3.12(django='5.2', celery='5.5')" -- -n 2 -k retry
    nox -s lowest                           # the oldest versions that pyproject.toml allows
    nox -s readme                           # the built wheel in an empty environment, and the pages
    nox -s free_threaded                    # the unit tests on Python 3.14 without the GIL

``make test`` is enough for most changes. Arguments after ``--`` are passed to pytest.
"""

from __future__ import annotations

from pathlib import Path

import nox
from packaging.requirements import Requirement

PROJECT = nox.project.load_toml("pyproject.toml")
TEST = nox.project.dependency_groups(PROJECT, "test")
PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
# Some of the group "test" bind C libraries that need the GIL.
FREE_THREADED = ["pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "hypothesis"]
FREE_THREADED += ["psutil", "pyyaml", "hatchling", "trustme", "pytest-django"]

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests", "lowest", "readme"]


@nox.session(python=PYTHONS)
@nox.parametrize("celery", ["5.5", "newest"])
@nox.parametrize("django", ["5.2", "newest"])
def tests(session: nox.Session, django: str, celery: str) -> None:
    """Run the tests."""
    session.install("-e", ".[all]", *TEST, series("Django", django), series("celery", celery))
    run_pytest(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version of each dependency."""
    session.install("-e", ".[all]", *TEST, *lower_bounds())
    run_pytest(session)


@nox.session(python="3.14t")
def free_threaded(session: nox.Session) -> None:
    """Run the unit tests without the GIL, and without the extras that have no wheel for it yet."""
    session.install("-e", ".[django,flask,redis,cli]", *FREE_THREADED)
    run_pytest(session, "tests/unit")


@nox.session(python=PYTHONS)
def readme(session: nox.Session) -> None:
    """Build, install the wheel, and follow README and docs with that."""
    folder = Path(session.create_tmp())
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", str(folder))
    built = [str(path) for path in folder.glob("datastream_ws-*")]
    session.run("python", "-m", "twine", "check", "--strict", *built)
    [wheel] = folder.glob("*.whl")
    session.install("--force-reinstall", f"{wheel}[all]", *TEST)
    run_pytest(session, "tests/acceptance/test_pages.py")


def series(name: str, version: str) -> str:
    return name if version == "newest" else f"{name}=={version}.*"


def lower_bounds() -> list[str]:
    """Return ``name==version`` for every dependency and those of the extras."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(line) for lines in lists for line in lines]
    pinned = {r.name: r for r in requirements if r.specifier}
    return [f"{name}=={lower_bound(each)}" for name, each in sorted(pinned.items())]


def lower_bound(requirement: Requirement) -> str:
    [bound] = [each.version for each in requirement.specifier if each.operator == ">="]
    return bound


def run_pytest(session: nox.Session, *default: str) -> None:
    arguments = session.posargs or ["-n", "auto", "--dist", "loadgroup", *default]
    session.run("python", "-m", "pytest", *arguments)
