"""Trains one network with every binarizer, three seeds each, and writes a table and a plot of its test top-1.

    python experiments/compare_binarizers.py                                                           # the digits
    python experiments/compare_binarizers.py --dataset=cifar10_subset --config.data_dir=DIR

Each weight binarizer is paired with ReCU's activations, and each activation binarizer with ReCU's weights. The pairs of
the papers are trained too. All other settings are ReCU's recipe for the data set, except for Bop's optimizer and
ReActNet's nonlinearity. So the results show how binarizers do in ReCU's place, and not how well each can do with its
own recipe. Weight binarizers without a scale of their own get the learned alpha. `cifar10_subset` has the first 500
training and 200 test images of each class of CIFAR-10, for a ResNet-8.

The same command continues where it was stopped: runs in `runs.jsonl` are not repeated, and an interrupted run resumes.
Needs matplotlib.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from experiments import runs
from experiments.benchmarks.turns import cpu_model
from recu_jax import data
from recu_jax.atomic_write import atomic_write
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS
from recu_jax.records import METRICS, read_epochs

WORKDIR = runs.REPOSITORY / "runs" / "binarizers"
RESULTS = runs.REPOSITORY / "experiments" / "results" / "binarizers"
EPOCHS = {"digits": 30, "cifar10_subset": 5}
# Images of each class in `cifar10_subset`.
TRAIN_IMAGES, TEST_IMAGES = 500, 200


@dataclasses.dataclass(frozen=True)
class Pair:
    """A row of the table: the binarizers, and the other config fields that differ from the recipe."""

    name: str
    group: str
    weights: str
    activations: str
    others: tuple[tuple[str, object], ...] = ()

    @property
    def fields(self) -> dict[str, object]:
        alpha = "none" if WEIGHTS[self.weights].scaled else "learned"
        return {
            "weight_binarizer": self.weights, "activation_binarizer": self.activations, "alpha": alpha,
            **dict(self.others),
        }  # fmt: skip


# Bop with the numbers of its paper. Bop flips signs of the kernels, and Adam trains all other parameters.
BOP = (("optimizer", "bop"), ("bop_threshold", 1e-8), ("bop_gamma", 1e-4), ("learning_rate", 0.01))
PAIRS = (
    Pair("ReCU", "papers", "recu", "recu"),
    Pair("BNN", "papers", "clipped_sign", "clipped_sign"),
    Pair("BNN by Bop", "papers", "clipped_sign", "clipped_sign", BOP),
    Pair("XNOR-Net", "papers", "xnor_net", "clipped_sign"),
    Pair("Bi-Real", "papers", "magnitude_aware_sign", "approx_sign"),
    Pair("IR-Net", "papers", "libra", "ede"),
    Pair("ReActNet", "papers", "magnitude_aware_sign", "rsign", (("nonlinearity", "rprelu"),)),
    Pair("AdaBin", "papers", "adabin", "adabin"),
    *(Pair(f"{name} weights", "weights", name, "recu") for name in WEIGHTS if name != "recu"),
    *(Pair(f"{name} activations", "activations", "recu", name) for name in ACTIVATIONS if name != "recu"),
)


def recipe(dataset: str, folder: pathlib.Path, data_dir: str | None) -> list[str]:
    """Returns the arguments of `recu_jax.main` for the data set. Writes the CIFAR-10 subset to `folder` if missing."""
    if dataset == "digits":
        return runs.RECORDED_DIGITS
    path = folder / "cifar10_subset.npz"
    if not path.exists():
        full = data.load("cifar10", data_dir)
        arrays = {}
        for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
            images, labels = getattr(full, f"{split}_images"), getattr(full, f"{split}_labels")
            chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))
            arrays |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.savez(file, **arrays)
    options = {
        "dataset": "npz", "data_dir": path.resolve(), "model": "cifar_resnet8", "warmup_epochs": 1,
        "batch_size": 100, "eval_batch_size": 500,
    }  # fmt: skip
    return ["--config=configs/cifar10.py", *(f"--config.{field}={value}" for field, value in options.items())]


def train(pair: Pair, seed: int, epochs: int, arguments: Sequence[str], workdir: pathlib.Path, prefix: Sequence[str]):
    """Trains one pair in a process of its own. Returns the test top-1 in percent after each epoch."""
    fields = {**pair.fields, "seed": seed, "epochs": epochs, "tensorboard": False, "report": False}
    process = runs.start(
        [*arguments, *(f"--config.{field}={value}" for field, value in fields.items())], workdir,
        cache=workdir.parent / "compiled", prefix=prefix,
    )  # fmt: skip
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status:
        sys.exit(f"{pair.name}, seed {seed}, ended with status {status}:\n{runs.log(workdir)[-2000:]}")
    return [row["test_top1"] for row in read_epochs(workdir / METRICS)]


def key(row: dict) -> tuple:
    return row["dataset"], row["name"], row["seed"], row["epochs"], tuple(sorted(row["fields"].items()))


def summary(rows: Iterable[dict]) -> dict[str, list[tuple[str, dict, list[float]]]]:
    """Returns by data set and epochs a list of (name, fields, last top-1 of each seed), the best mean first."""
    found = collections.defaultdict(dict)
    for row in rows:
        entries = found[f"{row['dataset']}, {row['epochs']} epochs"]
        entries.setdefault(row["name"], (row["name"], row["fields"], []))[2].append(row["test_top1"][-1])
    return {
        title: sorted(entries.values(), key=lambda entry: -statistics.mean(entry[2]))
        for title, entries in sorted(found.items(), key=lambda item: (not item[0].startswith("digits"), item[0]))
    }


def deviation(values: Sequence[float]) -> str:
    return f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""


def table(rows: Iterable[dict]) -> str:
    """Returns Markdown tables of the last epoch's test top-1, in percent: mean and standard deviation over seeds."""
    parts = []
    for title, entries in summary(rows).items():
        lines = [
            f"Test top-1 (%) after the last epoch: {title}.", "",
            "| | weights | activations | other fields | mean | deviation | each seed |", "|" + "---|" * 7,
        ]  # fmt: skip
        for name, fields, values in entries:
            others = ", ".join(f"{k}={v}" for k, v in fields.items() if not k.endswith("_binarizer"))
            each = ", ".join(f"{v:.2f}" for v in values)
            lines.append(
                f"| {name} | `{fields['weight_binarizer']}` | `{fields['activation_binarizer']}` | {others} | "
                f"{statistics.mean(values):.2f} | {deviation(values)} | {each} |"
            )
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def plot(rows: Iterable[dict], path: pathlib.Path) -> None:
    """Plots a dot for each seed and a line for the mean over the seeds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    found = summary(rows)
    figure, all_axes = plt.subplots(
        1, len(found), figsize=(5.5 * len(found), 5), dpi=150, layout="constrained", squeeze=False
    )
    for axes, (title, entries) in zip(all_axes[0], found.items(), strict=True):
        for at, (_, _, values) in enumerate(entries[::-1]):
            axes.plot(values, [at] * len(values), "o", markersize=4, alpha=0.6, color="C0")
            axes.plot([statistics.mean(values)] * 2, [at - 0.3, at + 0.3], color="C1", linewidth=2)
        axes.set_yticks(range(len(entries)), [entry[0] for entry in entries[::-1]], fontsize=8)
        axes.set(xlabel="test top-1 (%)", title=title)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=EPOCHS, default="digits")
    parser.add_argument("--config.data_dir", dest="data_dir", help="where TFDS keeps cifar10")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, which begin at 0")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--groups", nargs="+", choices=sorted({p.group for p in PAIRS}), help="default: all")
    parser.add_argument("--workdir", type=pathlib.Path, default=WORKDIR, help="folder of the runs")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--prefix", default="", help="put before each run's command, such as 'taskset -c 0'")
    args = parser.parse_args()
    epochs = args.epochs or EPOCHS[args.dataset]
    arguments = recipe(args.dataset, args.workdir, args.data_dir)
    args.results.mkdir(parents=True, exist_ok=True)
    args.workdir.mkdir(parents=True, exist_ok=True)
    record = args.results / "runs.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    # The outer loop is over seeds, so that an interrupted comparison has all pairs of every finished seed.
    for seed in range(args.seeds):
        for pair in PAIRS:
            row = {
                "dataset": args.dataset, "name": pair.name, "seed": seed, "epochs": epochs, "fields": pair.fields,
            }  # fmt: skip
            if (args.groups and pair.group not in args.groups) or key(row) in {key(r) for r in rows}:
                continue
            workdir = args.workdir / f"{args.dataset}_{epochs}" / f"{pair.name.replace(' ', '_')}_{seed}"
            workdir.parent.mkdir(parents=True, exist_ok=True)
            row["test_top1"] = train(pair, seed, epochs, arguments, workdir, shlex.split(args.prefix))
            row |= {"python": platform.python_version(), "jax": jax.__version__, "processor": cpu_model()}
            rows.append(row)
            with record.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{pair.name}, seed {seed}: {row['test_top1'][-1]:.2f}", flush=True)
            (args.results / "table.md").write_text(table(rows))
    (args.results / "table.md").write_text(table(rows))
    plot(rows, args.results / "plot.png")
    print(table(rows))


if __name__ == "__main__":
    main()
