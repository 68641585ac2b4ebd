"""Tests binarizers of a user's own module, which a config names."""

import numpy as np
import pytest

from recu_jax import BinaryDense, UserError, binarizers
from recu_jax.binarizers import activations, weights
from recu_jax.config import base_config
from recu_jax.config.fields import check_config
from recu_jax.training.recipe import binarizers_of
from tests.support import own_module

OWN = "tests.support.own_module:"


def config_with(**fields):
    config = base_config()
    config.update(fields)
    check_config(config)
    return config


def test_a_class_an_object_and_a_function():
    config = config_with(weight_binarizer=f"{OWN}Identity", activation_binarizer=f"{OWN}wide")
    assert binarizers_of(config) == (own_module.Identity(), own_module.Triangle(2.0))
    assert binarizers.weight_binarizer(f"{OWN}half") == weights.ReCU(b=0.5)
    assert binarizers.weight_binarizer(f"{OWN}Scaled") == own_module.Scaled()
    # It has a parameter, a shift for each channel.
    assert binarizers.activation_binarizer(f"{activations.__name__}:RSign") == activations.RSign()
    assert config_with(weight_binarizer=f"{OWN}half", alpha="mean").alpha == "mean"
    assert config_with(weight_binarizer=f"{OWN}Identity", optimizer="bop").optimizer == "bop"


def test_a_layer_evaluates_with_one_that_has_no_hash():
    x, kernel = np.array([[1.0, -2.0, 3.0]], np.float32), np.array([[0.5], [-0.5], [0.0]], np.float32)
    layer = BinaryDense(1, alpha="none", kernel_binarizer=own_module.NoHash())
    np.testing.assert_array_equal(layer.apply({"params": {"kernel": kernel}}, x), [[3.0]])


def test_one_that_a_config_adds_by_name_is_known(monkeypatch):
    monkeypatch.setitem(binarizers.WEIGHTS, "identity", own_module.Identity)
    assert binarizers_of(config_with(weight_binarizer="identity"))[0] == own_module.Identity()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"weight_binarizer": "nowhere:Identity"}, "there is no module 'nowhere'"),
        ({"weight_binarizer": f"{OWN}Identiti"}, "did you mean 'Identity'"),
        ({"weight_binarizer": f"{OWN}number"}, "a int; it must be a recu_jax.binarizers.WeightBinarizer"),
        ({"weight_binarizer": f"{OWN}Triangle"}, "a Triangle; it must be a recu_jax.binarizers.WeightBinarizer"),
        ({"activation_binarizer": f"{OWN}Identity"}, "it must be a recu_jax.binarizers.ActivationBinarizer"),
        ({"weight_binarizer": f"{OWN}Net"}, "it must be a recu_jax.binarizers.WeightBinarizer"),
        ({"weight_binarizer": f"{OWN}plain_sign"}, "a function without arguments that returns one"),
        ({"weight_binarizer": f"{OWN}NoTau"}, "its __call__ takes (kernel); it must take (kernel, tau, progress)"),
        ({"weight_binarizer": f"{OWN}NoScale"}, "returns one array; it must return a pair: signs"),
        ({"weight_binarizer": f"{OWN}one_scale"}, "returns ((3, 3, 4, 8), (1,)) for a kernel of shape (3, 3, 4, 8)"),
        (
            {"activation_binarizer": f"{OWN}Halved"},
            "returns (2, 5, 5, 2) for activations of shape (2, 5, 5, 4); it must return signs of the same shape",
        ),
        # Python does not know the arguments of `dict`, so it is called.
        ({"weight_binarizer": "builtins:dict"}, "a dict; it must be a recu_jax.binarizers.WeightBinarizer"),
        ({"weight_binarizer": f"{OWN}Raises"}, "its call on an array fails: RuntimeError: no signs today"),
        ({"weight_binarizer": f"{OWN}NoHash"}, "make its class a frozen dataclass"),
        ({"weight_binarizer": "identity"}, "or 'module:name' of your own"),
        ({"weight_binarizer": f"{OWN}Identity", "alpha": "mean"}, "alpha is 'mean', which is ReCU's"),
        ({"weight_binarizer": f"{OWN}half", "optimizer": "bop"}, "centers the weights"),
    ],
)
def test_mistakes_are_one_line(fields, message):
    with pytest.raises(UserError) as error:
        config_with(**fields)
    assert message in str(error.value) and "\n" not in str(error.value)
