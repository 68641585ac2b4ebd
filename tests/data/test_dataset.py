"""Tests loading data sets by name."""

import pytest

from recu_jax import UserError, data


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        data.load("cifar-10")
