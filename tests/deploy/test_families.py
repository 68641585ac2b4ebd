"""Compares networks from their files with the Flax models on real images: signs and logits must be equal."""

import functools

import cv2
import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from recu_jax.binarizers import weights
from recu_jax.deploy import graph, model, runtime
from recu_jax.deploy.build import BlockParts
from recu_jax.layers import BinaryConv
from recu_jax.models import FULL_PRECISION, MODELS
from recu_jax.ops import packing
from tests.support import compiled_kernels
from tests.support import golden_values as golden
from tests.support.random_networks import CONVS, file_of, flax_outputs, variables_of

COMPILED = compiled_kernels.instruction_sets()[0]
# Models that are also computed by XLA: one of each family. The other models differ only in their sizes, and would take
# half a minute.
ALSO_BY_XLA = ("digits_resnet8", "cifar_resnet18a", "cifar_vgg_small", "imagenet_resnet18", "react_resnet18")
# Sizes of the photographs: `PHOTO_SIZE`, at which deep networks compile and run in seconds, for models not in `SIZES`.
SIZES = {"imagenet_resnet18": 224}
PHOTO_SIZE = 64
UNCENTERED, PLAIN = weights.ReCU(b=1.0, center=False), weights.ReCU(standardize=False, clamp=False)


# Models that the quick tests compare.
QUICK = ("digits_resnet8",)


def real_images(name):
    """Returns uint8 digits, test images of CIFAR-10, or parts of scikit-learn's two photographs."""
    if name.startswith("digits"):
        return np.round(load_digits().images[:24, ..., None] * (255 / 16)).astype(np.uint8)
    if name.startswith("cifar"):
        return np.load(golden.FOLDER / "official_checkpoint_resnet20_eval.npz")["images_nhwc_uint8"][:8]
    size = SIZES.get(name, PHOTO_SIZE)
    photos = [cv2.resize(photo, (2 * size, size)) for photo in load_sample_images().images]
    return np.stack([half for photo in photos for half in (photo[:, :size], photo[:, size:])])


def watched(nodes, backend, images):
    """Returns logits, and the signs that go into each binary convolution."""
    inputs = [node.inputs[0] for node in nodes if node.op == "binary_conv"]
    function, arrays = runtime.compile_steps(nodes, backend, [*inputs, len(nodes) - 1])
    *signs, logits = jax.jit(function)(arrays, images)
    channels = [nodes[i].value.shape[-1] for i in inputs]
    return np.asarray(logits), [
        packing.unpack_bits(np.asarray(words), c) for words, c in zip(signs, channels, strict=True)
    ]


def each_model():
    """Yields each binary model as a test parameter.

    Three models are compiled with all of XLA's optimizations, as users compile them, because the rounding of sums can
    decide signs.
    """
    for name in sorted(set(MODELS) - FULL_PRECISION):
        optimised = name in ("cifar_resnet20", "cifar_vgg_small", "imagenet_resnet18")
        marks = [pytest.mark.as_users_compile] * optimised + [pytest.mark.slow] * (name not in QUICK)
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", list(each_model()))
def test_every_binary_activation_is_the_flax_models(name):
    images = real_images(name)
    net, variables = variables_of(name, images.shape[1:])
    logits, signs = flax_outputs(net, variables, images)
    header, arrays = file_of(name, variables, images.shape[1:])
    nodes = graph.check(header["operations"], arrays)
    assert len(signs) == sum(node.op == "binary_conv" for node in nodes) >= 5
    assert all(0.02 < s.mean() < 0.98 for s in signs)  # 2% of the signs or more are +1, and 2% or more are -1
    for backend in (COMPILED, "xla")[: 1 + (name in ALSO_BY_XLA)]:
        ours, our_signs = watched(nodes, backend, images)
        for i, (a, b) in enumerate(zip(our_signs, signs, strict=True)):
            assert (a == b).all(), f"{backend}: {(a != b).sum()} of {a.size} signs before binary convolution {i}"
        assert abs(ours - logits).max() <= 1e-5 * abs(logits).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FULL_PRECISION - {"resnet34"}))  # resnet34 has the blocks of resnet18
def test_full_precision_models(name):
    images = real_images(name)
    net, variables = variables_of(name, images.shape[1:])
    logits, _ = flax_outputs(net, variables, images)
    loaded = model.parse(*file_of(name, variables, images.shape[1:], BlockParts("float")))
    np.testing.assert_allclose(loaded.predict(images), logits, rtol=0, atol=1e-5 * abs(logits).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_resnet8", pytest.param("cifar_vgg_small", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "conv,parts",
    [
        (CONVS["float"], BlockParts("float")),
        (functools.partial(BinaryConv, alpha="none", binary_weights=False), BlockParts("binary_activations", "none")),
        (functools.partial(BinaryConv, alpha="mean"), BlockParts(alpha="mean")),
        (
            functools.partial(BinaryConv, alpha="mean", kernel_binarizer=UNCENTERED),
            BlockParts(alpha="mean", kernel_binarizer=UNCENTERED),
        ),
        (functools.partial(BinaryConv, kernel_binarizer=PLAIN), BlockParts(kernel_binarizer=PLAIN)),
    ],
    ids=["float", "binary_activations", "mean", "uncentered", "plain"],
)
def test_other_convolutions(name, conv, parts):
    images = real_images(name)
    net, variables = variables_of(name, images.shape[1:], conv=conv)
    logits, _ = flax_outputs(net, variables, images)
    loaded = model.parse(*file_of(name, variables, images.shape[1:], parts))
    np.testing.assert_allclose(loaded.predict(images), logits, rtol=0, atol=1e-5 * abs(logits).max())
