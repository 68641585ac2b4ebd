"""Which parameters weight decay reaches, by name."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from recu_jax import UserError, create_model
from recu_jax.optimizers import decay_mask


def decayed(name, groups):
    model = create_model(name, 10, stage_sizes=(1, 1), widths=(4, 8))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    mask = decay_mask(params, groups)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    flat = {"/".join(path): value for path, value in flatten_dict(mask).items()}
    return {path for path, value in flat.items() if value}, set(flat)


@pytest.mark.parametrize("name", ["imagenet_resnet18", "react_resnet18", "resnet50"])
def test_all(name):
    decays, names = decayed(name, "all")
    assert decays == names and len(names) > 20


def test_conv_and_linear_of_an_imagenet_model():
    decays, names = decayed("imagenet_resnet18", "conv_and_linear")
    blocks = ("layer1_0", "layer2_0")
    assert decays == {
        "conv1/kernel", "fc/kernel", "fc/bias",
        *(f"{b}/{c}/{leaf}" for b in blocks for c in ("conv1", "conv2") for leaf in ("kernel", "alpha")),
    }  # fmt: skip
    assert names - decays == {
        *(f"{norm}/{leaf}" for norm in ("bn1", "bn2") for leaf in ("scale", "bias")),
        *(f"{b}/{norm}/{leaf}" for b in blocks for norm in ("bn1", "bn2") for leaf in ("scale", "bias")),
        "layer2_0/downsample_0/kernel", "layer2_0/downsample_1/scale", "layer2_0/downsample_1/bias",
    }  # fmt: skip


def test_conv_and_linear_of_a_react_model():
    decays, names = decayed("react_resnet18", "conv_and_linear")
    assert decays == {
        "conv/kernel", "fc/kernel", "fc/bias",
        *(f"{block}/conv/{leaf}" for block in ("layer1_0", "layer2_0") for leaf in ("kernel", "alpha")),
    }  # fmt: skip
    assert {"layer1_0/move0/bias", "layer1_0/nonlinear/slope", "layer2_0/downsample_1/kernel"} <= names - decays


def test_unknown_groups():
    with pytest.raises(UserError, match="did you mean 'conv_and_linear'"):
        decay_mask({}, "conv_linear")
