"""The stored measurements: one JSON file for each part, with the time, machine and versions."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.parts import Figures

__all__ = ["load", "save"]

PACKAGES = [
    "websockets",
    "picows",
    "aiohttp",
    "websocket-client",
    "schematichq",
    "websocket-rs",
    "orjson",
    "msgspec",
]


def save(folder: Path, name: str, figures: Figures, *, quick: bool, seconds: float) -> None:
    """Write the results of a part, with the time, the machine and the versions."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "quick": quick,
        "seconds": round(seconds),
        "machine": machine(),
        "versions": versions(),
        "figures": rounded(figures),
    }
    path = folder / f"{name}.json"
    text = json.dumps(found, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def load(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the stored results of a part, or ``None`` if it was never measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def machine() -> str:
    """Return a description of cores, processor, system and Python."""
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores ({processor()}), {system}, Python {platform.python_version()}"


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def rounded(value: Any) -> Any:
    """Round all floats to four significant digits, because more are noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return value
