"""Provides a network of the digits with random variables, and its file."""

import pytest

from recu_jax.deploy import container
from tests.support.random_networks import SHAPE, file_of, variables_of


@pytest.fixture(scope="session")
def network():
    _, variables = variables_of("digits_resnet8", SHAPE)
    return file_of("digits_resnet8", variables, SHAPE)


@pytest.fixture(scope="session")
def path(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "digits.recu"
    container.write(path, *network)
    return path
