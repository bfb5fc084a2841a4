"""What a sweep left, in a form that two sweeps can be compared in: bit for bit, without clocks and memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CLOCKED = ("seconds", "peak_memory_bytes", "config", "name")
_CLOCKED_METRICS = ("train/tokens_per_second",)


def read_manifest(output_dir: Path) -> dict[str, Any]:
    """sweep.json of the one sweep of an output folder."""
    [path] = output_dir.glob("sweeps/*/sweep.json")
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def sweep_folder(output_dir: Path) -> Path:
    [path] = output_dir.glob("sweeps/*/sweep.json")
    return path.parent


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_results(output_dir: Path) -> dict[str, Any]:
    """Job id -> trained weights, items, records and curve of each finished job."""
    folder, found = sweep_folder(output_dir), {}
    for entry in read_manifest(output_dir)["jobs"]:
        run = folder / entry["dir"]
        if entry["state"] != "FINISHED":
            found[entry["id"]] = {"state": entry["state"]}
            continue
        result = json.loads((run / "result.json").read_text())
        result["fit"] = {key: value for key, value in result["fit"].items() if key not in _CLOCKED_METRICS}
        found[entry["id"]] = {
            "state": entry["state"],
            "objective": entry["objective"],
            "result": {key: value for key, value in result.items() if key not in _CLOCKED},
            "adapter": {path.name: checksum(path) for path in sorted((run / "adapter").iterdir())},
            "items": {path.name: checksum(path) for path in sorted((run / "evals").iterdir())},
            "curve": read_curve(run),
        }
    return found


def read_curve(run: Path) -> dict[str, dict[int, float | None]]:
    """Metric -> step -> value; of a step that was computed again after a kill, the later value."""
    curves: dict[str, dict[int, float | None]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # a kill in the middle of the line
        for key, value in values.items():
            if key not in ("step", "time", *_CLOCKED_METRICS) and not key.startswith("system/"):
                curves.setdefault(key, {})[values["step"]] = value
    return curves


def differences(left: Any, right: Any, place: str = "") -> list[str]:
    """Where two outcomes differ, in words."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted(left.keys() | right.keys(), key=str)
        return [
            text
            for key in keys
            for text in differences(left.get(key, "(absent)"), right.get(key, "(absent)"), f"{place}/{str(key)[:24]}")
        ]
    return [] if left == right else [f"{place}: {str(left)[:60]} against {str(right)[:60]}"]


def fit_starts(run: Path) -> int:
    """How often a job's fit began at its first step: sessions that had no checkpoint to go on from."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
    return sum('"step": 1,' in line and "train/nll" in line for line in lines)


def fingerprint(run: Path) -> dict[str, Any]:
    """Of a finished job's folder: changes if anything is done to it again."""
    files = [run / name for name in ("result.json", "metrics.jsonl", "log.txt", "tracked.jsonl", "config.yaml")]
    return {path.name: [path.stat().st_mtime_ns, path.stat().st_size] for path in files if path.is_file()}


def damaged_entries(output_dir: Path) -> list[str]:
    """Entries of the cache that do not hold what their manifest says."""
    from tokensieve.store import file_checksum

    found = []
    for manifest in output_dir.glob("cache/*/*/manifest.json"):
        if manifest.parent.suffix:
            continue  # of a killed build
        for name, expected in json.loads(manifest.read_text())["files"].items():
            path = manifest.parent / name
            if not path.is_file() or file_checksum(path) != expected["xxh3_128"]:
                found.append(str(path.relative_to(output_dir)))
    return found


def complaints(output_dir: Path) -> list[str]:
    """Lines of the jobs' logs that tell of something half-written that was read."""
    words = ("is damaged", "cannot be read", "JSONDecodeError", "checksum")
    return [
        f"{log.parent.name}: {line}"
        for log in output_dir.glob("sweeps/*/jobs/*/log.txt")
        for line in log.read_text(errors="replace").splitlines()
        if any(word in line for word in words)
    ]
