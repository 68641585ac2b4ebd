"""Compares a learned alpha (the authors' code) with the mean magnitude of the clamped weights as alpha (the paper).

    python experiments/paper/alpha.py [--budget=paper --data_dir=DIR]

`sweep.py` describes the options.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.paper import sweep

EXPERIMENT = sweep.Experiment(
    name="alpha",
    title="alpha: learned, and computed",
    variants={
        "learned (the recipe)": {},
        "computed": {"alpha": "mean"},
    },
    measures={"flipped an epoch (%)": sweep.mean_over_epochs("flipped")},
)

if __name__ == "__main__":
    sweep.run(EXPERIMENT)
