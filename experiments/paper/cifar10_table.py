"""Trains the three models of the paper's CIFAR-10 table and their full-precision twins.

    python experiments/paper/cifar10_table.py --budget=paper --data_dir=DIR

`sweep.py` describes the options. Top-1 in the paper, after 600 epochs: ResNet-20 87.4, ResNet-18 92.8,
VGG-small 92.2 (SPEC.md section 8).
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from experiments.paper import sweep

MODELS = {"ResNet-20": "cifar_resnet20", "ResNet-18": "cifar_resnet18", "VGG-small": "cifar_vgg_small"}

EXPERIMENT = sweep.Experiment(
    name="cifar10_table",
    title="CIFAR-10: 1-bit networks and their full-precision twins",
    variants={
        **{name: {"model": model} for name, model in MODELS.items()},
        **{f"{name}, full precision": {"model": model, "conv": "float"} for name, model in MODELS.items()},
    },
    measures={"flipped an epoch (%)": sweep.mean_over_epochs("flipped")},
    datasets=("cifar10", "cifar10_5000"),
)

if __name__ == "__main__":
    sweep.run(EXPERIMENT)
