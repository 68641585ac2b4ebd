"""Draws test top-1 and train loss by epoch for recorded runs.

    python experiments/plot_runs.py --out=FILE.png LABEL=metrics.jsonl [LABEL=metrics.jsonl ...]

Each line of a file has `epoch` and `test_top1`, and may have `train_loss`. Needs matplotlib.
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--title", default="")
    parser.add_argument("runs", nargs="+", metavar="LABEL=FILE")
    arguments = parser.parse_args()
    figure, (accuracy, loss) = plt.subplots(1, 2, figsize=(9, 3.2), dpi=150, layout="constrained")
    for run in arguments.runs:
        label, path = run.split("=", 1)
        rows = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
        epochs = [row["epoch"] for row in rows]
        accuracy.plot(epochs, [row["test_top1"] for row in rows], marker="o", markersize=3, label=label)
        if "train_loss" in rows[0]:
            loss.plot(epochs, [row["train_loss"] for row in rows], marker="o", markersize=3, label=label)
    accuracy.set(xlabel="epoch", ylabel="test top-1 (%)")
    loss.set(xlabel="epoch", ylabel="train loss")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy.legend(frameon=False, loc="lower right")
    figure.suptitle(arguments.title)
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
