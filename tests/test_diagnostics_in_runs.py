"""Checks a run's diagnostics against their definitions, for ReCU, its ablations and all other weight binarizers."""

import json

import jax
import numpy as np
import pytest

from configs.digits import get_config
from recu_jax.binarizers import WEIGHTS
from recu_jax.training import loop
from recu_jax.training.checkpoint import read_best
from recu_jax.training.recipe import make_model
from tests.support import one_block

SMALLEST = {
    "dataset": "npz", "model": one_block.MODEL, "epochs": 1, "batch_size": 16, "eval_batch_size": 16, "num_devices": 1,
    "tensorboard": False, "report": False, "warmup_epochs": 0,
}  # fmt: skip


def standardized(kernel, b, center=True):
    """Returns the standardized kernel of SPEC.md 1.1, in float64."""
    flat = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    centered = flat - flat.mean(0) if center else flat
    return (centered * np.sqrt(2) * b / np.sqrt(flat.var(0, ddof=1) + 1e-5)).reshape(kernel.shape)


def by_hand(kernel, tau, fields):
    """Returns the weights before the clamp, and its bound, as SPEC.md section 1 and the papers define them."""
    name = fields.get("weight_binarizer", "recu")
    if name == "libra":  # b for a standard deviation of 1
        return standardized(kernel, np.sqrt(0.5)), np.inf
    if name == "adabin":
        flat = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
        return ((flat - flat.mean(0)) / flat.std(0)).reshape(kernel.shape), np.inf
    if name != "recu":
        return np.asarray(kernel, np.float64), np.inf
    w = np.asarray(kernel, np.float64)
    if fields.get("standardize", True):
        w = standardized(kernel, fields.get("laplace_b", 2.0), fields.get("center", True))
    return w, -abs(w).mean() * np.log(2 - 2 * tau) if fields.get("clamp", True) else np.inf


@pytest.fixture
def images(tmp_path):
    r = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    x, y = r.integers(0, 256, (80, 8, 8, 1), np.uint8), np.arange(80) % 10
    np.savez(path, train_images=x[:64], train_labels=y[:64], test_images=x[64:], test_labels=y[64:])
    return str(path)


FIELDS = [
    {},
    {"clamp": False},
    {"standardize": False},
    {"laplace_b": 0.5},
    {"center": False},
    *({"weight_binarizer": name} for name in WEIGHTS if name != "recu"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    FIELDS,
    ids=lambda fields: "_".join(f"{k}={v}" for k, v in fields.items()) or "recu",
)
def test_they_are_those_of_the_run(fields, images, tmp_path):
    config = get_config()
    config.update({**SMALLEST, "data_dir": images, **fields})
    loop.train(config, tmp_path / "run")
    _, _, variables = read_best(tmp_path / "run")
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "diagnostics.jsonl").read_text().splitlines()]
    assert row["layers"]
    key = jax.random.split(jax.random.key(config.seed))[0]
    initial = jax.jit(make_model(config, 10).init)(key, np.zeros((1, 8, 8, 1)))
    for path, measured in row["layers"].items():
        before, after = initial["params"], variables["params"]
        for part in path.split("/"):
            before, after = before[part], after[part]
        w, bound = by_hand(after["kernel"], row["tau"], fields)
        flipped = (w >= 0) != (by_hand(before["kernel"], row["tau"], fields)[0] >= 0)
        # A weight at the mean of its channel may be rounded to either side.
        assert measured["flipped"] == pytest.approx(flipped.mean(), abs=2 / w.size)
        scale = abs(w).mean()
        assert measured["scale"] == pytest.approx(scale, rel=1e-4)
        # JSON has no infinity.
        assert measured["quantile"] == (pytest.approx(bound, rel=1e-4) if np.isfinite(bound) else None)
        assert measured["clipped"] == pytest.approx((abs(w) > bound).mean(), abs=2 / w.size)
        assert measured["clipped_theory"] == pytest.approx(2 - 2 * row["tau"] if np.isfinite(bound) else 0, abs=1e-5)
        error = np.square(np.minimum(abs(w), bound) - scale).mean()
        assert measured["quantization_error"] == pytest.approx(error, rel=1e-3)
        edges = scale * np.linspace(-8, 8, 65)
        counts = np.histogram(np.clip(w, edges[0], edges[-1]), edges)[0]
        # A weight at an edge may be rounded to either side.
        assert abs(counts - measured["histogram"]).sum() <= 4


@pytest.mark.slow
def test_a_rate_that_falls_kills_no_weight(images, tmp_path):
    """The last epoch has a hundredth of the first rate. Weights move less then, but must not count as dead."""
    config = get_config()
    fields = {"epochs": 8, "lr_schedule": "step", "lr_milestones": (6, 7), "data_dir": images}
    config.update({**SMALLEST, **fields})
    loop.train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "diagnostics.jsonl").read_text().splitlines()]
    full, least = ([layer["dead"] for layer in rows[epoch - 1]["layers"].values()] for epoch in (6, 8))
    assert max(least) < 0.5 and np.mean(least) < np.mean(full) + 0.2
