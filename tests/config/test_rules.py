"""Tests fields that break their rules, alone and in pairs. `tests/robustness/bad_rows.py` has more."""

import pytest

from recu_jax import UserError
from tests.support.small_runs import digits


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            {"weight_binarizer": "xnor"},
            "config.weight_binarizer is 'xnor', which does not exist; did you mean 'xnor_net'",
        ),
        ({"activation_binarizer": "aprox_sign"}, "did you mean 'approx_sign'"),
        ({"nonlinearity": "relu"}, "config.nonlinearity is 'relu'.*did you mean 'rprelu'"),
        ({"weight_binarizer": "libra", "alpha": "mean"}, "config.alpha is 'mean', which is ReCU's"),
        ({"weight_binarizer": "libra", "clamp": False}, "config.clamp is False, a part of ReCU left out"),
        ({"model": "react_resnet18", "nonlinearity": "rprelu"}, "which has its own; leave the field out"),
        (
            {"optimizer": "bop"},
            "config.weight_binarizer is 'recu', which centers the weights.*use one of: clipped_sign",
        ),
        ({"optimizer": "bop", "conv": "float"}, "config.conv is 'float', which has no 1-bit weights"),
        ({"bop_gamma": 1.5}, "config.bop_gamma is 1.5; it must be at most 1"),
        ({"held_out": -1}, "config.held_out is -1; it must be at least 0"),
        ({"latent_optimizer": "bop"}, "'bop', which does not exist; it must be one of: None, sgd, adam, muon"),
        ({"latent_optimizer": "muon"}, "'muon', whose rate is an angle .* give --config.latent_learning_rate"),
        (
            {"latent_optimizer": "muon", "latent_learning_rate": 0.01, "latent_weight_decay": 0.0},
            "config.latent_weight_decay is 0.0 and config.latent_optimizer is 'muon', which keeps the norm",
        ),
        ({"latent_learning_rate": 0.0}, "config.latent_learning_rate is 0.0; it must be above 0"),
        ({"latent_weight_decay": -1.0}, "config.latent_weight_decay is -1.0; it must be at least 0"),
        ({"latent_optimizer": "adam", "conv": "float"}, "config.conv is 'float', which has no latent weights"),
        (
            {"latent_weight_decay": 0.0, "optimizer": "bop", "weight_binarizer": "clipped_sign"},
            "config.latent_weight_decay is 0.0 and config.optimizer is 'bop', which has no latent weights",
        ),
    ],
)
def test_mistakes_in_a_config(fields, message):
    with pytest.raises(UserError, match=message):
        digits(**fields)
