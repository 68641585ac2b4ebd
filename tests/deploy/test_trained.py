"""Tests files of trained networks with other binarizers than ReCU."""

import functools

import jax
import numpy as np
import pytest

from recu_jax import UserError, create_model
from recu_jax.data import info_of
from recu_jax.deploy import model, trained
from recu_jax.models import MODELS
from recu_jax.training.recipe import parts_of
from tests.support.small_runs import dataset, digits

OWN = "tests.support.own_module:"
TINY = {
    "two_shortcuts": functools.partial(MODELS["cifar_resnet20"], stage_sizes=(1, 1), widths=(4, 8)),
    "one_shortcut": functools.partial(MODELS["cifar_resnet18"], stage_sizes=(1, 1), widths=(4, 8)),
    "pooled": functools.partial(MODELS["cifar_vgg_small"], widths=(4, 8, 8), pooled=(1,)),
    "projections": functools.partial(MODELS["imagenet_resnet18"], stage_sizes=(1, 1), widths=(4, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,fields",
    [
        # With some of these pairs of binarizers, the first convolution of a one-shortcut block gets thresholds.
        ("one_shortcut", {"weight_binarizer": "xnor_net", "activation_binarizer": "rsign"}),
        ("one_shortcut", {"weight_binarizer": "dorefa", "activation_binarizer": "reste", "alpha": "none"}),
        ("pooled", {"weight_binarizer": "magnitude_aware_sign", "nonlinearity": "rprelu", "alpha": "none"}),
        ("pooled", {"weight_binarizer": "libra", "activation_binarizer": "rsign"}),
        ("one_shortcut", {"nonlinearity": "identity"}),
        ("pooled", {"nonlinearity": "identity", "conv": "binary_activations"}),
        ("projections", {"nonlinearity": "identity"}),
        ("projections", {"weight_binarizer": "clipped_sign", "nonlinearity": "rprelu"}),
        ("two_shortcuts", {"activation_binarizer": "rsign", "conv": "binary_activations"}),
        ("pooled", {"weight_binarizer": f"{OWN}Identity", "activation_binarizer": f"{OWN}wide"}),
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
    # No variable keeps its initial value, shifts and slopes included. Variances are positive.
    r = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: r.uniform(-1, 1, s.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(abs, variables["batch_stats"])
    logits = jax.jit(net.apply)(variables, x)
    best = trained.Trained(c.to_dict() | {"model": name}, variables, info_of("digits", data, 16), lambda: data)
    loaded = model.parse(*trained.network(best))
    np.testing.assert_allclose(loaded.predict(images), logits, rtol=0, atol=1e-4 * abs(logits).max())


def test_signs_that_a_file_does_not_know_are_refused():
    c = digits(activation_binarizer=f"{OWN}Flipped")
    with pytest.raises(UserError, match=r"a file knows sign\(x\).* its signs are others"):
        trained.network(trained.Trained(c.to_dict(), {}, dataset(16), None))


@pytest.mark.parametrize(
    "fields,refused",
    [
        ({"weight_binarizer": "adabin"}, "weight_binarizer"),
        ({"activation_binarizer": "adabin"}, "activation_binarizer"),
        (
            {"weight_binarizer": "adabin", "activation_binarizer": "adabin", "conv": "binary_activations"},
            "activation_b",
        ),
    ],
)
def test_values_with_an_offset_are_refused(fields, refused):
    with pytest.raises(UserError, match=f"config.{refused}.* is 'adabin', and its two values are not"):
        trained.network(trained.Trained(digits(**fields).to_dict(), {}, dataset(16), None))
