"""Compares weights standardized to Laplace scale b* = 1, 2 and 4, scaled but not centered, and not standardized.

    python experiments/paper/standardization.py [--budget=paper --data_dir=DIR]

`sweep.py` describes the options.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.paper import sweep

EXPERIMENT = sweep.Experiment(
    name="standardization",
    title="Standardisation: b*, centring, neither",
    variants={
        "b* = 2 (the recipe)": {},
        **{f"b* = {b:g}": {"laplace_b": b} for b in (1.0, 4.0)},
        "without centring": {"center": False},
        "without standardisation": {"standardize": False},
    },
    measures={
        "flipped an epoch (%)": sweep.mean_over_epochs("flipped"),
        "clipped (%)": sweep.mean_over_epochs("clipped"),
    },
)

if __name__ == "__main__":
    sweep.run(EXPERIMENT)
