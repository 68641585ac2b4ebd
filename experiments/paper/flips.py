"""Compares flip ratio and convergence with and without ReCU: the "faster training" of the paper's abstract.

    python experiments/paper/flips.py [--budget=paper --data_dir=DIR]

`sweep.py` describes the options.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.paper import sweep

# Test top-1 in percent. For each of these, the table has the first epoch that reaches it. The paper ends at 87.4 on
# CIFAR-10.
TARGETS = (40, 60, 70, 80, 85, 90, 95, 97)


def epochs_to(target):
    """Returns a function of a run: the first epoch with a test top-1 of at least `target` percent, or None."""
    return lambda run: next((row["epoch"] for row in run.rows if row["test_top1"] >= target), None)


def draw(axes, by_label):
    sweep.draw_by_epoch(
        axes, by_label, lambda run: [100 * sweep.layer_means(row)["flipped"] for row in run.diagnostics]
    )
    axes.set_yscale("log")
    axes.set_ylabel("flip ratio (%), mean of layers, seeds")


EXPERIMENT = sweep.Experiment(
    name="flips",
    title="Flip ratio and convergence with and without ReCU",
    variants={"with ReCU (the recipe)": {}, "without ReCU": {"clamp": False}},
    measures={
        "flipped an epoch (%)": sweep.mean_over_epochs("flipped"),
        "dead, mean of epochs (%)": sweep.mean_over_epochs("dead"),
        **{f"epochs to {target}%": epochs_to(target) for target in TARGETS},
    },
    draw=draw,
)

if __name__ == "__main__":
    sweep.run(EXPERIMENT)
