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
    """Write one part's figures, with what they hold for."""
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
    """What :func:`save` wrote; ``None`` if this part was never measured."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def machine() -> str:
    """Cores, processor, system and Python."""
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores ({processor()}), {system}, Python {platform.python_version()}"


def processor() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def versions() -> dict[str, str]:
    """Of the packages compared; those that are not installed are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def rounded(value: Any) -> Any:
    """Figures with four significant digits: more would be noise, and noise in every diff."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return value
