"""Compares fixed tau with schedules that raise it (the paper's ablation of tau).

    python experiments/paper/tau.py [--budget=paper --data_dir=DIR]

`sweep.py` describes the options.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.paper import sweep

FIXED = (0.82, 0.85, 0.90, 0.95, 0.99, 1.0)

EXPERIMENT = sweep.Experiment(
    name="tau",
    title="tau: fixed, and rising from 0.85 to 0.99",
    variants={
        "exponential (the recipe)": {},
        "linear": {"tau_schedule": "linear"},
        "cosine": {"tau_schedule": "cosine"},
        **{f"fixed {tau:.2f}": {"tau_min": tau, "tau_max": tau} for tau in FIXED},
    },
    measures={
        "flipped an epoch (%)": sweep.mean_over_epochs("flipped"),
        "clipped (%)": sweep.mean_over_epochs("clipped"),
    },
)

if __name__ == "__main__":
    sweep.run(EXPERIMENT)
