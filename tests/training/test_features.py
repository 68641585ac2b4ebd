"""Tests runs that learn from the outputs of their teacher's blocks too."""

import jax
import numpy as np
import pytest

from recu_jax import UserError, create_model, layers
from recu_jax.data import load
from recu_jax.models.features import features, with_features
from recu_jax.models.own import in_training
from recu_jax.models.unit import fused
from recu_jax.training import loop
from recu_jax.training.run import prepare, read_given_variables
from tests.support.small_runs import digits

MODEL, ARRAYS = "digits_resnet8", ("images", "labels")


def small(**changes):
    return digits(**{"model": MODEL, "epochs": 1, "augment": False, "report": False, **changes})


def test_features_are_the_outputs_of_the_blocks():
    model = create_model("cifar_resnet20", conv=layers.Conv)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = model.init(jax.random.key(1), x)
    logits, found = with_features(model, variables, x)
    assert list(found) == [f"layer{stage}_{i}" for stage in (1, 2, 3) for i in range(3)]
    assert [f.shape[1:] for f in found.values()] == 3 * [(32, 32, 16)] + 3 * [(16, 16, 32)] + 3 * [(8, 8, 64)]
    # The rest of the network: global mean, batch norm with its first statistics, linear layer.
    mean = np.asarray(found["layer3_2"], np.float64).mean((1, 2)) / np.sqrt(1 + 1e-5)
    linear = jax.device_get(variables["params"]["linear"])
    np.testing.assert_allclose(logits, mean @ linear["kernel"] + linear["bias"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, model.apply(variables, x), rtol=1e-5, atol=1e-5)


def test_vgg_has_the_outputs_of_rprelu_in_the_compiled_units_too():
    model = create_model("cifar_vgg_small", widths=(8, 8, 8, 8, 8, 8), nonlinearity="rprelu")
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = model.init(jax.random.key(1), x)
    plain, together = (
        features(in_training(m, variables, x, 0.9, None, with_features=True)[1]) for m in (model, fused(model))
    )
    assert list(plain) == list(together) == [f"nonlinear{i}" for i in range(1, 6)]
    # The first ones alone: later ones may differ by a sign that rounding decides.
    np.testing.assert_allclose(together["nonlinear1"], plain["nonlinear1"], rtol=1e-3, atol=1e-3)


def outputs_of_blocks(model, variables, x, **arguments):
    everything = ["intermediates", "batch_stats"]
    _, changed = model.apply(variables, x, capture_intermediates=True, mutable=everything, **arguments)
    return [np.asarray(changed["intermediates"][f"layer{stage}_0"]["__call__"][0]) for stage in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_loss_has_the_distance_of_the_features(tmp_path):
    digits_data = load("digits")
    few = {f"{s}_{what}": getattr(digits_data, f"{s}_{what}")[:40] for s in ("train", "test") for what in ARRAYS}
    np.savez(tmp_path / "few.npz", **few)
    of_few = {"dataset": "npz", "data_dir": str(tmp_path / "few.npz"), "batch_size": 40, "eval_batch_size": 40}
    of_few |= {"conv": "float", "dtype": "float64"}
    teacher = str(tmp_path / "teacher")
    loop.train(small(**of_few), teacher)
    # One step. The student is full precision too, so that no sign depends on rounding.
    fields = {**of_few, "teacher": teacher, "teacher_model": MODEL}
    losses = [
        loop.train(small(**fields, teacher_features=weight), tmp_path / str(weight)).final["train_loss"]
        for weight in (0.0, 3.0)
    ]
    run = prepare(small(**fields))
    given = read_given_variables(run, tmp_path / "none")
    data = load("npz", of_few["data_dir"])
    x = (data.train_images / 255 - data.mean[0]) / data.std[0]
    ours = outputs_of_blocks(run.recipe.model, given.first.variables, x, tau=0.85, train=True)
    theirs = outputs_of_blocks(run.recipe.teacher, given.teacher, x)
    distances = [np.mean((a - b) ** 2 / (b.var((0, 1, 2)) + 0.001)) for a, b in zip(ours, theirs, strict=True)]
    np.testing.assert_allclose(losses[1] - losses[0], 3 * np.mean(distances), rtol=1e-8)


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            {"model": "cifar_resnet8"},
            r"layer1_0 is \(8, 8, 16\) in cifar_resnet8 and \(8, 8, 64\) in digits_resnet8; use a",
        ),
        ({"model": "tests.support.own_module:WithBatchNorm"}, "has no features: no submodule is named as layer1_0 or"),
    ],
)
def test_a_teacher_with_other_features_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        prepare(small(teacher="runs/teacher", teacher_model=MODEL, teacher_features=1.0, **fields))
