"""Reads records of benchmarks, and formats their figures and what made them."""

import json
import pathlib

RESULTS = pathlib.Path(__file__).parents[2] / "experiments" / "results"
_BENCHMARKS = "benchmarks"


def read(name):
    """Returns the record `name` of a benchmark."""
    return json.loads((RESULTS / _BENCHMARKS / name).read_text())


def spread(value, digits=2):
    """Formats median, minimum and maximum on one line."""
    text = f"{value['median']:.{digits}f} ({value['min']:.{digits}f} to {value['max']:.{digits}f})"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _flat(versions):
    """Formats versions on one line: of one program, or of all sides of a comparison, with PyTorch last."""
    if not all(isinstance(side, dict) for side in versions.values()):
        return ", ".join(f"{name} {version}" for name, version in versions.items())
    ours: dict[str, str] = {}
    for of in versions.values():
        ours |= of if "torch" not in of else {}
    said = [_flat(ours)] if ours else []
    if theirs := next((of for of in versions.values() if "torch" in of), None):
        said.append(f"against {_flat(theirs)}")
    return ", ".join(said)


def made_by(name: str) -> str:
    """Returns a line with the date, hardware and versions of a record, and a link to the record."""
    record = read(name)
    said = [record["date"][:10]] if "date" in record else []
    machine = record.get("machine", {})
    if machine:
        said.append(f"{machine['cores']} cores of an {machine['cpu']}")
    elif "cores" in record:
        said.append(f"{record['cores']} cores")
    versions = record.get("versions") or {key: record[key] for key in ("python", "jax") if key in record}
    if versions:
        said.append(_flat(versions))
    said.append(f"{{download}}`{name} <../experiments/results/{_BENCHMARKS}/{name}>`")
    return "Record: " + "; ".join(said) + "."
