"""b* of the standardisation, standardising without centring, and no standardisation: see `sweep`.

python experiments/paper/standardization.py [--budget=paper --data_dir=DIR]
"""

import sweep

EXPERIMENT = sweep.Experiment(
    name="standardization",
    title="Standardisation: b*, centring, neither",
    variants={
        "b* = 2 (the recipe)": {},
        **{f"b* = {b:g}": {"laplace_b": b} for b in (1.0, 4.0)},
        "without centring": {"centre": False},
        "without standardisation": {"standardize": False},
    },
    measures={
        "flipped an epoch (%)": sweep.mean_over_epochs("flipped"),
        "clipped (%)": sweep.mean_over_epochs("clipped"),
    },
)

if __name__ == "__main__":
    sweep.run(EXPERIMENT)
