"""Tests the trained networks that come with recu_jax: their variables, 1-bit files and cards."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import recu_jax
from recu_jax import UserError, networks
from recu_jax.training.run import prepare, read_given_variables
from tests.support.small_runs import digits


@pytest.mark.parametrize("name", networks.NAMES)
def test_variables_and_1_bit_file_are_one_network(name):
    """Compares two programs: the variables in float convolutions of signs, and the 1-bit file in bit operations."""
    network, variables = recu_jax.pretrained(name), recu_jax.load_variables(name)
    images = np.random.default_rng(0).integers(0, 256, (16, *network.image_shape), np.uint8)
    logits = np.asarray(network.predict(images))
    # The 1-bit file normalizes images itself. Its first operation has the mean and the standard deviation.
    mean, std = (np.asarray(network.nodes[0].attributes[k], np.float32) for k in ("mean", "std"))
    x = (images / np.float32(255) - mean) / std
    expected = recu_jax.create_model(name, network.num_classes).apply(variables, x)
    assert (logits.argmax(-1) == np.asarray(expected).argmax(-1)).mean() > 0.9  # rounding may flip a sign near 0
    assert np.median(np.abs(logits - expected)) < 1e-3


def test_a_network_says_what_it_is():
    network = recu_jax.pretrained("cifar_resnet20")
    assert network.class_names[2] == "bird" and network.num_classes == 10
    assert repr(network).startswith("<cifar_resnet20: images of 32x32x3, 10 classes, ")


@pytest.mark.parametrize("name", networks.NAMES)
def test_variables_are_those_of_the_model(name):
    variables = recu_jax.load_variables(name)
    shape = recu_jax.pretrained(name).image_shape
    fresh = jax.eval_shape(recu_jax.create_model(name).init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), "f4"))
    found, wanted = flatten_dict(variables), flatten_dict(fresh)
    assert {p: (a.shape, a.dtype) for p, a in found.items()} == {p: (a.shape, a.dtype) for p, a in wanted.items()}


def test_a_run_starts_from_a_network_by_name():
    run = prepare(digits(init_from="digits_resnet8"))
    first = read_given_variables(run, "no/such/run").first
    expected = networks.variables("digits_resnet8")
    for path, array in flatten_dict(expected).items():
        np.testing.assert_array_equal(flatten_dict(first.variables)[path], array)


def test_a_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert networks.is_name("digits_resnet8")
    (tmp_path / "digits_resnet8").mkdir()
    assert not networks.is_name("digits_resnet8")
    with pytest.raises(UserError, match="digits_resnet8 holds no checkpoint"):
        recu_jax.load_variables("digits_resnet8")


def test_other_names():
    with pytest.raises(UserError, match=r"'cifar_resnet2'.*did you mean 'cifar_resnet20'"):
        recu_jax.pretrained("cifar_resnet2")
    with pytest.raises(UserError, match="one of the trained networks cifar_resnet20, digits_resnet8"):
        recu_jax.load_variables("cifar_resnet2")
    with pytest.raises(UserError, match="teacher is 'digits_resnet8', a 1-bit network"):
        c = digits(teacher="digits_resnet8", teacher_model="digits_resnet8")
        read_given_variables(prepare(c), "no/such/run")
    with pytest.raises(UserError, match=r"digits_resnet8 does not fit the model.*the same model, conv, alpha"):
        read_given_variables(prepare(digits(init_from="digits_resnet8", alpha="none")), "no/such/run")
    with pytest.raises(UserError, match="cifar_resnet20 is a trained network of model 'cifar_resnet20'; it must be of"):
        recu_jax.load_variables("cifar_resnet20", model="cifar_vgg_small")


@pytest.mark.parametrize("name", networks.NAMES)
def test_each_network_has_its_card(name):
    card = networks.file(name, ".md").read_text()
    assert card.startswith(f"# {name}\n")
    assert all(
        f"| {row} |" in card for row in ("test top-1", "size", "data", "recipe", "hardware", "record", "licence")
    )
    assert f"{round(networks.file(name).stat().st_size / 1000)} kB with one bit per weight" in card
