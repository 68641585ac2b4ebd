"""Makes tables from experiments/results/compile_only: steps compiled for GPUs and TPUs on machines without them."""

import json
import pathlib

from markdown_table import table

_FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "results" / "compile_only"
_SPACE = "\N{NO-BREAK SPACE}"
_HEADER = (
    "device", "step", "batch", "compiled in", "memory a device", "kernels", "all-reduces", "operations, bytes",
    "bound",
)  # fmt: skip
_SCALE_HEADER = (
    "chips", "batch", "images a chip", "memory a chip", "all-reduces a step", "step, ms", "all-reduces, ms",
    "an epoch", "200 epochs",
)  # fmt: skip
# Training images of ImageNet, and epochs of `configs/imagenet.py`.
_IMAGES, _EPOCHS = 1_281_167, 200


def compile_only() -> str:
    """Returns the table with a row for each record.

    Rows are sorted by number of devices, device, model, batch and dtype. Training comes before evaluation.
    """
    records = _records()
    return f"{table(_HEADER, map(_row, records), names=2)}\n\n{_made_by(records)}"


def scale() -> str:
    """Returns the table of training steps of `imagenet_resnet18` on TPUs, with a row for each record."""
    of_tpus = [r for r in _records() if r["kernels"] is None and r["kind"] == "train"]
    return table(_SCALE_HEADER, [_scale_row(r) for r in of_tpus if r["model"] == "imagenet_resnet18"], names=2)


def _records():
    records = [json.loads(path.read_text()) for path in sorted(_FOLDER.glob("*.json"))]
    order = ("devices", "target", "model", "batch", "dtype")
    return sorted(records, key=lambda row: (*(row[name] for name in order), row["kind"] != "train"))


def _scale_row(record):
    bound, reduced = record["bound"], record["collectives"].get("all-reduce", {"bytes": 0})
    step = max(bound["milliseconds_of_bytes"], bound["milliseconds_of_operations"])
    links = bound["milliseconds_of_all_reduces"]
    epoch = _IMAGES / record["batch"] * (step + links) / 1000
    return [
        f"{record['devices']} x {record['device']}".replace(" ", _SPACE),
        f"{record['batch']:,}",
        f"{record['batch'] // record['devices']}",
        f"{record['memory']['needed'] / 2**30:.2f}{_SPACE}GiB",
        f"{reduced['bytes'] / 1e6:.1f}{_SPACE}MB",
        f"{step:.1f}",
        f"{links:.2f}",
        f"{epoch:.0f}{_SPACE}s",
        f"{_EPOCHS * epoch / 3600:.1f}{_SPACE}h",
    ]


def _row(record):
    memory, bound = record["memory"], record["bound"]
    several = f"{record['devices']} x " if record["devices"] > 1 else ""
    reduced = record["collectives"].get("all-reduce", {})
    return [
        f"{several}{record['device']}".replace(" ", _SPACE),
        f"`{record['model']}`,<br>{record['dtype']}, {'training' if record['kind'] == 'train' else 'evaluation'}",
        str(record["batch"]),
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
