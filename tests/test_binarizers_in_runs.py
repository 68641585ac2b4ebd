"""Binarizers by config: every pair with every model, training, resuming, evaluating, exporting."""

import collections
import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs.digits import get_config
from recu_jax import UserError, binarizers, create_model, loop, torch_export, train
from recu_jax import export as export_command
from recu_jax.binarizers import Annealed
from recu_jax.checkpoint import saved
from recu_jax.config import check_config, check_resumable, check_same_model, plain
from recu_jax.data import Dataset
from recu_jax.data.order import train_order
from recu_jax.deploy import check, model
from recu_jax.models import MODELS, OWN_NONLINEARITY
from recu_jax.recipe import make_recipe, parts_of

DEVICE = jax.local_devices()[:1]


def digits(**changes):
    c = get_config()
    c.num_devices, c.tensorboard = 1, False
    for name, value in changes.items():
        c[name] = value
    check_config(c)
    return c


def dataset(side, channels=3):
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (50, side, side, channels), np.uint8), r.integers(0, 10, 50).astype(np.int32)
    return Dataset(images[:37], labels[:37], images[37:], labels[37:], 10, (0.5,) * channels, (0.25,) * channels)


def small(recipe):
    """Two blocks, of four channels and of eight."""
    vgg = "pooled" in recipe.model.__dataclass_fields__
    fields = {"widths": (4, 8, 8), "pooled": (1,)} if vgg else {"stage_sizes": (1, 1), "widths": (4, 8)}
    return dataclasses.replace(recipe, model=recipe.model.clone(**fields))


# As 5, 6 and 7 have no factor in common, all 210 would come in turn.
FAMILIES = ("digits_resnet8", "cifar_resnet18", "cifar_vgg_small", "imagenet_resnet18", "react_resnet18")
WEIGHTS, ACTIVATIONS = list(binarizers.WEIGHTS), list(binarizers.ACTIVATIONS)
COMBINATIONS = [(FAMILIES[i % 5], WEIGHTS[i % 6], ACTIVATIONS[i % 7]) for i in range(14)]


@pytest.mark.parametrize("name,weights,activations", COMBINATIONS)
def test_any_pair_with_any_model_makes_a_step(name, weights, activations):
    """Traced, not compiled: shapes and dtypes of a whole step, and every parameter in the gradient's way."""
    rprelu = {} if name in OWN_NONLINEARITY else {"nonlinearity": "rprelu"}
    c = digits(model=name, weight_binarizer=weights, activation_binarizer=activations, batch_size=16, **rprelu)
    data = dataset(32)
    recipe = small(make_recipe(c, data, steps_per_epoch=2))
    state = train.state_shapes(recipe, data.train_images.shape[1:])
    count = collections.Counter(path[-1] for path in flatten_dict(state.params))
    assert count["alpha"] == count["slope"] >= 2
    assert count["shift"] == (count["alpha"] if activations == "rsign" else 0)
    assert (recipe.progress is not None) == (weights == "libra" or activations in ("ede", "reste"))
    step = functools.partial(train.train_steps, recipe=recipe)
    after, metrics = jax.eval_shape(
        jax.vmap(step, (None, None, None, None, 0), out_axes=None, axis_name="devices"),
        state, {}, data.train_images, data.train_labels, jax.ShapeDtypeStruct((1, 1, 16), jnp.int32),
    )  # fmt: skip
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state) and metrics["loss"].shape == (1,)


@pytest.mark.usefixtures("x64")
def test_a_step_sees_the_progress_of_its_epoch():
    """Step 3 of 4, two an epoch of two: half of the training is over."""
    c = digits(
        weight_binarizer="libra", activation_binarizer="ede", dtype="float64", crop_padding=0, flip=False,
        batch_size=16, epochs=2, warmup_epochs=0, weight_decay=0.0, momentum=0.0,
    )  # fmt: skip
    data = dataset(8, 1)
    recipe = make_recipe(c, data, steps_per_epoch=2)
    recipe = dataclasses.replace(recipe, model=recipe.model.clone(stage_sizes=(1,), widths=(4,)))
    np.testing.assert_array_equal([recipe.progress(s) for s in range(4)], [0, 0, 0.5, 0.5])
    state = jax.device_get(train.create_state(recipe, 0, (8, 8, 1))).replace(step=np.int32(2))
    step = train.parallel(
        functools.partial(train.train_steps, recipe=recipe), DEVICE, mapped=(False,) * 4 + (True,), donate=False
    )
    indices = train_order(0, 1, 37, 16)[:1]
    after, _ = step(*train.replicate((state, {}, data.train_images, data.train_labels), DEVICE), indices[None])

    x = (data.train_images[indices[0]] / 255 - 0.5) / 0.25

    @jax.jit
    def gradient(params, progress):
        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            tau = Annealed(recipe.tau(2), progress)
            logits, _ = recipe.model.apply(variables, x, tau=tau, train=True, mutable=["batch_stats"])
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), data.train_labels[indices[0]][:, None], 1).mean()

        return jax.grad(loss)(params)

    kernel = lambda tree: np.asarray(tree["layer1_0"]["conv2"]["kernel"])  # noqa: E731
    # The optimiser counts its own steps, of which this is the first.
    moved = (kernel(state.params) - kernel(after.params)) / recipe.learning_rate(0)
    np.testing.assert_allclose(moved, kernel(gradient(state.params, 0.5)), rtol=1e-6, atol=1e-9)
    assert abs(moved - kernel(gradient(state.params, 0.0))).max() > 1e-3 * abs(moved).max()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of what has the most parts: a scale of its own, annealing, RPReLU, Bop with its averages."""
    folder = tmp_path_factory.mktemp("runs")
    fields = {
        "weight_binarizer": "xnor_net", "activation_binarizer": "ede", "nonlinearity": "rprelu",
        "optimizer": "bop", "learning_rate": 0.01, "bop_gamma": 1e-2, "weight_decay": 0.0, "epochs": 2,
    }  # fmt: skip
    # A second run of the same programs does not compile them again.
    options = {"jax_compilation_cache_dir": str(folder / "cache"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {option: getattr(jax.config, option) for option in options}
    for option, value in options.items():
        jax.config.update(option, value)
    yield fields, folder, loop.train(digits(**fields), folder / "whole")
    for option, value in before.items():
        jax.config.update(option, value)


def test_bop_flips_signs_and_keeps_magnitudes(run):
    _, folder, result = run
    assert result.final["test_top1"] > 60
    first, last = (checkpoint.state()["params"] for checkpoint in saved(folder / "whole"))
    before, after = (np.asarray(p["layer1_0"]["conv1"]["kernel"]) for p in (first, last))
    np.testing.assert_array_equal(abs(before), abs(after))
    assert 0.001 < (before != after).mean() < 0.5
    assert (np.asarray(first["conv1"]["kernel"]) != np.asarray(last["conv1"]["kernel"])).all()


def test_resumed_and_evaluated_as_never_stopped(run):
    fields, folder, result = run
    # What a run leaves that was stopped after its first epoch.
    shutil.copytree(folder / "whole", folder / "stopped")
    shutil.rmtree(folder / "stopped" / "checkpoints" / str(saved(folder / "stopped")[-1].step))
    resumed = loop.train(digits(**fields), folder / "stopped")
    jax.tree.map(np.testing.assert_array_equal, resumed.state, result.state)
    assert loop.evaluate(digits(**fields), folder / "whole")["test_top1"] == result.best["test_top1"]


@pytest.mark.parametrize(
    "field,value,was",
    [
        ("weight_binarizer", "dorefa", "xnor_net"),
        ("activation_binarizer", "approx_sign", "ede"),
        ("nonlinearity", None, "rprelu"),
    ],
)
def test_another_pair_is_refused(run, field, value, was):
    fields, folder, _ = run
    other = digits(**{**fields, field: value})
    with pytest.raises(UserError, match=f"holds a run with {field}='{was}', the config says {value!r}"):
        loop.evaluate(other, folder / "whole")
    with pytest.raises(UserError, match=f"{field} was '{was}' and is {value!r}"):
        loop.train(other, folder / "whole")


def test_runs_from_before_the_binarizers_go_on():
    new = ("weight_binarizer", "activation_binarizer", "nonlinearity", "bop_threshold", "bop_gamma")
    old = {k: v for k, v in plain(digits()).items() if k not in new}
    check_resumable(old, digits(), "run")
    check_same_model(old, digits(), "run")
    with pytest.raises(UserError, match="weight_binarizer was 'recu' and is 'dorefa'"):
        check_resumable(old, digits(weight_binarizer="dorefa"), "run")
    with pytest.raises(UserError, match="activation_binarizer='recu', the config says 'ede'"):
        check_same_model(old, digits(activation_binarizer="ede"), "run")


def test_its_file_gives_what_it_gives(run, tmp_path):
    trained = export_command.read(run[1] / "whole")
    export_command.export(trained, tmp_path / "digits.recu")
    assert check.check(trained, tmp_path / "digits.recu").startswith("360 test images: 0 differing predictions")
    with pytest.raises(UserError, match="nonlinearity='rprelu'; the authors' code knows ReCU and its own models alone"):
        torch_export.export(run[1] / "whole", tmp_path / "x.pth")


TINY = {
    "two_shortcuts": functools.partial(MODELS["cifar_resnet20"], stage_sizes=(1, 1), widths=(4, 8)),
    "one_shortcut": functools.partial(MODELS["cifar_resnet18"], stage_sizes=(1, 1), widths=(4, 8)),
    "pooled": functools.partial(MODELS["cifar_vgg_small"], widths=(4, 8, 8), pooled=(1,)),
    "projections": functools.partial(MODELS["imagenet_resnet18"], stage_sizes=(1, 1), widths=(4, 8)),
}


@pytest.mark.parametrize(
    "name,fields",
    [
        # Between two convolutions under one shortcut a threshold gives the signs, or cannot.
        ("one_shortcut", {"weight_binarizer": "xnor_net", "activation_binarizer": "rsign"}),
        ("one_shortcut", {"weight_binarizer": "dorefa", "activation_binarizer": "reste", "scale": "none"}),
        ("pooled", {"weight_binarizer": "magnitude_aware_sign", "nonlinearity": "rprelu", "scale": "none"}),
        ("pooled", {"weight_binarizer": "libra", "activation_binarizer": "rsign"}),
        ("projections", {"weight_binarizer": "clipped_sign", "nonlinearity": "rprelu"}),
        ("two_shortcuts", {"activation_binarizer": "rsign", "conv": "binary_activations"}),
    ],
)
def test_files_of_other_pairs(name, fields, monkeypatch):
    monkeypatch.setitem(MODELS, name, TINY[name])
    c = digits(**fields)
    data = dataset(16)
    net = create_model(name, 10, **parts_of(c))
    images = data.test_images
    x = (images / 255 - 0.5).astype(np.float32) / 0.25
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    # Nothing at its first value, shifts and slopes included; variances positive.
    r = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: r.uniform(-1, 1, s.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(abs, variables["batch_stats"])
    logits = jax.jit(net.apply)(variables, x)
    trained = export_command.Trained(c.to_dict() | {"dataset": "digits", "model": name}, variables, data, None)
    loaded = model.parse(*export_command.network(trained))
    np.testing.assert_allclose(loaded.predict(images), logits, rtol=0, atol=1e-4 * abs(logits).max())


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            {"weight_binarizer": "xnor"},
            "config.weight_binarizer is 'xnor', which does not exist; did you mean 'xnor_net'",
        ),
        ({"activation_binarizer": "aprox_sign"}, "did you mean 'approx_sign'"),
        ({"nonlinearity": "relu"}, "config.nonlinearity is 'relu'.*did you mean 'rprelu'"),
        ({"weight_binarizer": "libra", "scale": "mean"}, "config.scale is 'mean', which is ReCU's"),
        ({"weight_binarizer": "libra", "clamp": False}, "config.clamp is False, a part of ReCU left out"),
        ({"model": "react_resnet18", "nonlinearity": "rprelu"}, "which has its own; leave the field out"),
        (
            {"optimizer": "bop"},
            "config.weight_binarizer is 'recu', which centres the weights.*use one of: clipped_sign",
        ),
        ({"optimizer": "bop", "conv": "float"}, "config.conv is 'float', which has no 1-bit weights"),
        ({"bop_gamma": 1.5}, "config.bop_gamma is 1.5; it must be at most 1"),
    ],
)
def test_mistakes_in_a_config(fields, message):
    with pytest.raises(UserError, match=message):
        digits(**fields)
