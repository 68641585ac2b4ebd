"""Makes the table of steps compiled for GPUs and TPUs without such a device, from experiments/results/compile_only."""

import json
import pathlib

_FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "results" / "compile_only"
_SPACE = "\N{NO-BREAK SPACE}"
_HEADER = (
    "device", "step", "batch a device", "compiled in", "memory a device", "kernels", "all-reduces", "operations, bytes",
    "bound",
)  # fmt: skip


def compile_only() -> str:
    """Returns the table with a row for each record, sorted by device and model, training before evaluation."""
    records = [json.loads(path.read_text()) for path in sorted(_FOLDER.glob("*.json"))]
    records.sort(key=lambda row: (row["devices"], row["target"], row["model"], row["dtype"], row["kind"] != "train"))
    rows = [_row(record) for record in records]
    lines = [_HEADER, ["---"] * 2 + ["--:"] * (len(_HEADER) - 2), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{_made_by(records)}"


def _row(record):
    memory, bound = record["memory"], record["bound"]
    several = f"{record['devices']} x " if record["devices"] > 1 else ""
    reduced = record["collectives"].get("all-reduce", {})
    return [
        f"{several}{record['device']}".replace(" ", _SPACE),
        f"`{record['model']}`,<br>{record['dtype']}, {'training' if record['kind'] == 'train' else 'evaluation'}",
        str(record["batch_per_device"]),
        f"{record['compile_seconds']:.0f}{_SPACE}s",
        f"{memory['needed'] / 2**30:.2f} of {memory['of_device'] / 2**30:.0f}{_SPACE}GiB".replace(
            " of ", f"{_SPACE}of "
        ),
        "" if record["kernels"] is None else str(record["kernels"]),
        f"{reduced['count']}: {reduced['bytes'] / 1e6:.2f}{_SPACE}MB" if reduced else "",
        f"{record['operations'] / 1e9:.1f}e9, {record['bytes'] / 1e9:.2f}{_SPACE}GB",
        f"{bound['images_per_second']:,}{_SPACE}images/s, by {bound['binds']}",
    ]


def _made_by(records):
    versions: dict[str, set] = {}
    for record in records:
        for name, version in record["versions"].items():
            versions.setdefault(name, set()).add(version)
    said = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())
    days = sorted({record["date"][:10] for record in records})
    machines = sorted({f"{record['machine']['cores']} cores of an {record['machine']['cpu']}" for record in records})
    return f"Compiled on {' and '.join(machines)}, {' to '.join(sorted({days[0], days[-1]}))}; {said}."
