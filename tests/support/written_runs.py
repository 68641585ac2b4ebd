"""Writes workdirs as runs leave them, without the training."""

import functools

import jax
import numpy as np

from recu_jax import BinaryLayer, diagnostics, records
from recu_jax.binarizers import activations, weights
from recu_jax.config.fields import base_config, plain
from recu_jax.records import EpochRecords
from recu_jax.training.measuring import plain as plain_number
from tests.support import ROOT

RECORDED = ROOT / "experiments" / "results" / "cifar10_resnet20_10_epochs"


LAYERS = ("layer1_0/conv1", "layer1_0/conv2")


EPOCHS = 3


def write_run(workdir, epochs=EPOCHS, **fields):
    """Writes a workdir as a run leaves it, with real measures of made-up weights."""
    workdir.mkdir(parents=True)
    config = plain(base_config()) | {"epochs": EPOCHS, **fields}
    records.add_start(workdir, config, 1, jax.local_devices()[:1])
    r = np.random.default_rng(len(workdir.name))
    recu = (weights.ReCU(), activations.ReCU())
    layers = [BinaryLayer(name, "conv", (3, 3, 8, 8), "learned", True, *recu) for name in LAYERS]
    measure = jax.jit(functools.partial(diagnostics.measure_weights, layers=layers))

    def variables():
        def layer():
            return {"kernel": r.laplace(size=(3, 3, 8, 8)).astype("f"), "alpha": np.ones(8, "f")}

        return {"params": {"layer1_0": {"conv1": layer(), "conv2": layer()}}}

    kept = EpochRecords(workdir)
    memory = diagnostics.remember(variables(), layers)
    for epoch in range(1, epochs + 1):
        tau = 0.8 + 0.05 * epoch
        measured, memory = measure(variables(), memory, tau=tau)
        found = diagnostics.by_layer(measured, layers)
        rows = {name: {k: plain_number(v) for k, v in values.items()} for name, values in found.items()}
        row = {"epoch": epoch, "step": 9 * epoch, "train_loss": 2.0 / epoch, "train_top1": 50.0, "test_loss": 1.5}
        row |= {"test_top1": 60.0 + epoch, "learning_rate": 0.1, "tau": tau, "images_per_second": 100.0}
        seconds = {"seconds": 2.0, "diagnostics_seconds": 0.01}
        kept.write(row, {"epoch": epoch, "step": 9 * epoch, "tau": tau, "layers": rows, **seconds})
    return workdir
