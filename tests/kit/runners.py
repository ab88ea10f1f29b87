"""
Processes that run streams: ``manage.py run_datastream``, ``flask datastream run`` and a worker.

::

    ended = run(DjangoRunner, tmp_path, stages)
    assert ended.code == 0

Each runner gets all streams at once, because starting it is slow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from .celeryproject import CeleryProject
from .djangoproject import Project
from .flaskproject import FlaskProject
from .stage import Stage, wait_for_all

__all__ = ["RUNNERS", "Ended", "Runner", "run", "settings_of"]

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

Settings = Mapping[str, Mapping[str, Any]]  # the settings of each stream, by its name


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a process, and the seconds of its shutdown."""

    code: int
    output: str
    seconds: float


class Runner(Protocol):
    """A process that runs streams. ``with`` starts and kills it."""

    fatal_delay: float | None  # the default of this option in the process

    def __init__(self, folder: Path, settings: Settings, facts: Path, **config: Any) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...
    def is_running(self) -> bool: ...
    def terminate(self) -> None: ...
    def wait(self) -> int: ...
    @property
    def output(self) -> str: ...


def settings_of(stages: Mapping[str, Stage], **more: Any) -> Settings:
    """Return DATASTREAMS for these stages."""
    return {
        name: {
            "URL": stage.url,
            **{key.upper(): value for key, value in stage.scenario.client_options.items()},
            **more,
        }
        for name, stage in stages.items()
    }


def environment(settings: Settings, facts: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "DATASTREAMS": json.dumps(settings),
        "FACTS": str(facts),
    }


HEAD = """
import json, os
from kit.scenarios import SCENARIOS
from kit.witness import attend, writer

given = json.loads(os.environ["DATASTREAMS"])
say = writer(os.environ["FACTS"])
"""


class DjangoRunner:
    """``manage.py run_datastream`` in a project whose database has no tables."""

    fatal_delay: float | None = None
    MODULE = (
        HEAD
        + """
from datastream_ws_django import datastreams

for name in given:
    attend(datastreams[name], SCENARIOS[name], say)
"""
    )

    def __init__(self, folder: Path, settings: Settings, facts: Path, **config: Any) -> None:
        self._project = Project(folder)
        (self._project.folder / "shop" / "datastreams.py").write_text(self.MODULE)
        self._environment = environment(settings, facts)

    def __enter__(self) -> Self:
        self._process = self._project.start("run_datastream", **self._environment)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.__exit__(None, None, None)

    def is_running(self) -> bool:
        return self._process.is_running

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> int:
        return self._process.wait()

    @property
    def output(self) -> str:
        return self._process.output


class FlaskRunner:
    """``flask datastream run``."""

    fatal_delay: float | None = None
    MODULE = (
        HEAD
        + """
from flask import Flask
from datastream_ws_flask import DataStream

app = Flask(__name__)
app.config["DATASTREAMS"] = given
for name in given:
    stream = DataStream(app, name=name)
    attend(stream, SCENARIOS[name], say, lambda stream=stream: stream.client)
"""
    )

    def __init__(self, folder: Path, settings: Settings, facts: Path, **config: Any) -> None:
        self._project = FlaskProject(folder, self.MODULE, **environment(settings, facts))

    def __enter__(self) -> Self:
        self._process = self._project.datastream("run")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.__exit__(None, None, None)

    def is_running(self) -> bool:
        return self._process.process.poll() is None

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> int:
        return self._process.exit_code()

    @property
    def output(self) -> str:
        return self._process.output


class CeleryRunner:
    """A worker with ``--datastream``, whose broker is in its own memory."""

    fatal_delay: float | None = 300.0
    MODULE = (
        HEAD
        + """
from pathlib import Path
from celery import Celery
from datastream_ws import Client
from datastream_ws.celery import install

app = Celery("proj", broker="memory://")
app.conf.update(json.loads((Path(__file__).parent / "project.json").read_text())["conf"])
clients = []
for name, settings in given.items():
    client = Client(name=name, **{key.lower(): value for key, value in settings.items()})
    attend(client, SCENARIOS[name], say)
    clients.append(client)
install(app, clients)
"""
    )

    def __init__(self, folder: Path, settings: Settings, facts: Path, **config: Any) -> None:
        self._project = CeleryProject(
            folder / "worker", broker="memory://", feed="", conf=config, module=self.MODULE
        )
        self._environment = environment(settings, facts)
        self._environment["PYTHONPATH"] += f":{folder / 'worker'}"

    def __enter__(self) -> Self:
        self._worker = self._project.start("--datastream", **self._environment)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._worker.kill()

    def is_running(self) -> bool:
        return self._worker.process.poll() is None

    def terminate(self) -> None:
        self._worker.process.terminate()

    def wait(self) -> int:
        return self._worker.process.wait(PATIENCE)

    @property
    def output(self) -> str:
        return self._worker.log


RUNNERS: dict[str, type[Runner]] = {
    "django": DjangoRunner,
    "flask": FlaskRunner,
    "celery": CeleryRunner,
}


def run(
    runner: type[Runner],
    folder: Path,
    stages: Mapping[str, Stage],
    *,
    terminate: bool = True,
    **more: Any,
) -> Ended:
    """
    Run all *stages*, which have not started, with the streams of one process.

    Args:
        runner: The kind of process.
        folder: The folder of its project.
        stages: The stages, by the name of the stream.
        terminate: Whether to send SIGTERM when all stages are over. Otherwise the process must
            end without it.
        more: More settings of every stream. ``config`` contains options of the runner.

    """
    facts = Facts(folder / "facts.jsonl", stages)
    config = more.pop("config", {})
    with ExitStack() as stack:
        for stage in stages.values():
            stack.enter_context(stage)
        process = runner(folder, settings_of(stages, **more), facts.path, **config)
        with process:
            wait_for_all(stages.values(), lambda: facts.read_from(process))
            begun = time.monotonic()
            if terminate:
                process.terminate()
            code = process.wait()
            seconds = time.monotonic() - begun
            facts.read()
            return Ended(code, process.output, seconds)


class Facts:
    """The file to which witnesses write facts. Reading it passes each fact to its stage."""

    def __init__(self, path: Path, stages: Mapping[str, Stage]) -> None:
        self.path = path
        self._stages = stages
        self._read = 0
        path.touch()

    def read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            fact = json.loads(line)
            self._stages[fact["stream"]].say(**fact)

    def read_from(self, process: Runner) -> None:
        running = process.is_running()
        self.read()
        assert running or all(stage.is_over() for stage in self._stages.values()), process.output
