"""Checks which operations after a binary convolution are computed together with it."""

import pytest

from recu_jax.deploy import graph, runtime
from tests.support.random_networks import file_of, variables_of


@pytest.mark.slow
def test_what_follows_a_convolution_joins_it():
    kinds = {}
    for name in ("cifar_vgg_small", "cifar_resnet18", "imagenet_resnet18"):
        shape = (64, 64, 3)
        _, variables = variables_of(name, shape)
        header, arrays = file_of(name, variables, shape)
        kinds[name] = [step.kind for step in runtime.plan(graph.check(header["operations"], arrays))]
    # All binary convolutions but the last. The results of the last stay real numbers.
    assert kinds["cifar_vgg_small"].count("conv_thresholds") == 4
    # First the convolutions inside the blocks, then those to which a shortcut is added.
    assert [kinds["cifar_resnet18"].count(k) for k in ("conv_thresholds", "conv_affine")] == [8, 8]
    assert kinds["imagenet_resnet18"].count("conv_affine") == 16
    # Only the stem's signs are a step of their own: `norm_sign`, or `sign` if a shortcut takes the real numbers, too.
    # All other signs are outputs of the step of a convolution.
    stems = {"cifar_vgg_small": "norm_sign", "cifar_resnet18": "sign", "imagenet_resnet18": "sign"}
    for name, steps in kinds.items():
        assert not {"affine", "add", "threshold"} & set(steps)
        assert [kind for kind in steps if "sign" in kind] == [stems[name]]
