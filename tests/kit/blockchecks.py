"""Check code blocks that are not programs, by their language or the name of their file."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from kit.pages import Block

__all__ = ["CHECKS", "check_block"]


def check_block(block: Block, folder: Path) -> None:
    """Fail if the block is malformed. *folder* contains the previous files of the page."""
    suffix = Path(block.title).suffix
    name = "service" if suffix == ".service" else block.language
    assert name in CHECKS, f"{block}: no check for {name!r}"
    CHECKS[name][1](block.text, folder)


def python(text: str, folder: Path) -> None:
    compile(text, "block", "exec")


def shell(text: str, folder: Path) -> None:
    subprocess.run(["sh", "-n"], input=text, check=True, text=True)


def ini(text: str, folder: Path) -> None:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.read_string(text)


def nothing(text: str, folder: Path) -> None:
    pass


# --- systemd ---------------------------------------------------------------------------------


def service(text: str, folder: Path) -> None:
    ini(text, folder)
    if shutil.which("systemd-analyze") is None:
        return
    # The program and the user of the page are not on this machine.
    here = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/sh", text)
    here = re.sub(r"(?m)^User=.*\n", "", here)
    unit = folder / "checked.service"
    unit.write_text(here, encoding="utf-8")
    verify = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=30)
    wrong = [line for line in done.stderr.splitlines() if unit.name in line]
    assert wrong == []


# --- Docker ----------------------------------------------------------------------------------

INSTRUCTIONS = "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK RUN USER VOLUME WORKDIR"


def dockerfile(text: str, folder: Path) -> None:
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    words = [line.split(maxsplit=1) for line in lines if not line.startswith("#")]
    assert {first for first, *_ in words} <= set(INSTRUCTIONS.split())
    assert words[0][0] in ("FROM", "ARG")
    last = [rest for first, *rest in words if first in ("CMD", "ENTRYPOINT")]
    # In the shell form, the shell is process 1 and does not pass SIGTERM on.
    assert all(isinstance(json.loads(rest[0]), list) for rest in last)
    assert last


# --- YAML ------------------------------------------------------------------------------------


def yaml_documents(text: str, folder: Path) -> None:
    for document in yaml.safe_load_all(text):
        if "apiVersion" in document:
            kubernetes(document)
        elif "services" in document:
            compose(document)


SERVICE = {"image", "build", "command", "environment", "ports", "volumes", "depends_on", "restart"}
SERVICE |= {"healthcheck", "stop_grace_period", "init", "deploy"}


def compose(document: Any) -> None:
    services = document["services"]
    for name, each in services.items():
        assert set(each) <= SERVICE, name
        assert "image" in each or "build" in each, name
        assert set(each.get("depends_on", ())) <= set(services), name


POD = {"containers", "volumes", "terminationGracePeriodSeconds", "securityContext"}
CONTAINER = {"name", "image", "command", "args", "env", "ports", "volumeMounts", "resources"}
CONTAINER |= {"startupProbe", "livenessProbe", "readinessProbe", "securityContext"}
PROBE = {"exec", "httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}
PROBE |= {"initialDelaySeconds"}
WORKLOADS = {"Deployment": "apps/v1", "StatefulSet": "apps/v1"}
OTHERS = {"Service": "v1", "Secret": "v1", "ConfigMap": "v1", "PersistentVolumeClaim": "v1"}
OTHERS |= {"HorizontalPodAutoscaler": "autoscaling/v2"}
SPEC = {"replicas", "strategy", "selector", "template", "serviceName", "volumeClaimTemplates"}


def kubernetes(document: Any) -> None:
    kind = document["kind"]
    assert document["apiVersion"] == (WORKLOADS | OTHERS)[kind]
    assert document["metadata"]["name"]
    if kind in WORKLOADS:
        workload(document["spec"])


def workload(spec: Any) -> None:
    assert set(spec) <= SPEC
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    pod = spec["template"]["spec"]
    assert set(pod) <= POD
    volumes = {each["name"] for each in pod.get("volumes", ())}
    volumes |= {each["metadata"]["name"] for each in spec.get("volumeClaimTemplates", ())}
    for each in pod["containers"]:
        container(each, volumes)


def container(each: Any, volumes: set[str]) -> None:
    assert set(each) <= CONTAINER
    assert each["name"]
    assert each["image"]
    assert {mount["name"] for mount in each.get("volumeMounts", ())} <= volumes
    for name, probe in each.items():
        if name.endswith("Probe"):
            assert set(probe) <= PROBE, name
            assert ("exec" in probe) != ("httpGet" in probe), name


Check = Callable[[str, Path], None]

CHECKS: dict[str, tuple[str, Check]] = {
    "python": ("run; a file: compiled, and run by what the page does with it", python),
    "sh": ("run, but for the commands in kit.reader.NOT_RUN", shell),
    "text": ("compared with what was printed", nothing),
    "ini": ("parsed", ini),
    "service": ("parsed; systemd-analyze verify where there is one, with another program", service),
    "dockerfile": ("its instructions are known, the last one is in the form that gets signals",
                   dockerfile),
    "yaml": ("parsed; fields of Kubernetes and Compose are known and fit together", yaml_documents),
    "go": ("not run: what a page migrates from", nothing),
}  # fmt: skip
