"""Networks from their files against the Flax models, on real images: the same signs, and the same logits."""

import functools

import compiled_kernels
import cv2
import golden_values as golden
import jax
import numpy as np
import pytest
from random_networks import CONVS, file_of, flax_outputs, variables_of
from sklearn.datasets import load_digits, load_sample_images

from recu_jax.bits import packing
from recu_jax.deploy import fold, graph, model, runtime
from recu_jax.deploy.build import Convs
from recu_jax.layers import BinaryConv
from recu_jax.models import FULL_PRECISION, MODELS

COMPILED = compiled_kernels.instruction_sets()[0]
# Of each family one; the others differ in numbers alone, and take half a minute.
ALSO_BY_XLA = ("digits_resnet8", "cifar_resnet18a", "cifar_vgg_small", "imagenet_resnet18", "react_resnet18")
# At a size at which the deep ones compile and run in seconds; imagenet_resnet18 as it is.
SIZES = {"imagenet_resnet18": 224, "digits_resnet8": 8}
PHOTO_SIZE = 64


def real_images(name):
    """uint8: digits, CIFAR's test images, or parts of scikit-learn's two photographs."""
    if name.startswith("digits"):
        return np.round(load_digits().images[:24, ..., None] * (255 / 16)).astype(np.uint8)
    if name.startswith("cifar"):
        return np.load(golden.FOLDER / "official_checkpoint_resnet20_eval.npz")["images_nhwc_uint8"][:8]
    size = SIZES.get(name, PHOTO_SIZE)
    photos = [cv2.resize(photo, (2 * size, size)) for photo in load_sample_images().images]
    return np.stack([half for photo in photos for half in (photo[:, :size], photo[:, size:])])


def watched(nodes, backend, images):
    """Logits, and the signs that go into each binary convolution."""
    inputs = [node.inputs[0] for node in nodes if node.op == "binary_conv"]
    function, arrays = runtime.compile_steps(nodes, backend, [*inputs, len(nodes) - 1])
    *signs, logits = jax.jit(function)(arrays, images)
    channels = [nodes[i].value.shape[-1] for i in inputs]
    return np.asarray(logits), [
        packing.unpack_bits(np.asarray(words), c) for words, c in zip(signs, channels, strict=True)
    ]


def each_model():
    """Their names; one of each kind is compiled as users do, since a sign hangs on how its sum is rounded."""
    for name in sorted(set(MODELS) - FULL_PRECISION):
        optimised = name in ("cifar_resnet20", "cifar_vgg_small", "imagenet_resnet18")
        yield pytest.param(name, marks=[pytest.mark.as_users_compile] * optimised)


@pytest.mark.parametrize("name", list(each_model()))
def test_every_binary_activation_is_the_flax_models(name):
    images = real_images(name)
    net, variables = variables_of(name, images.shape[1:])
    logits, signs = flax_outputs(net, variables, images)
    header, arrays = file_of(name, variables, images.shape[1:])
    nodes = graph.check(header["operations"], arrays)
    assert len(signs) == sum(node.op == "binary_conv" for node in nodes) >= 5
    assert all(0.02 < s.mean() < 0.98 for s in signs)  # neither all +1 nor all -1
    for backend in (COMPILED, "xla")[: 1 + (name in ALSO_BY_XLA)]:
        ours, our_signs = watched(nodes, backend, images)
        for i, (a, b) in enumerate(zip(our_signs, signs, strict=True)):
            assert (a == b).all(), f"{backend}: {(a != b).sum()} of {a.size} signs before binary convolution {i}"
        assert abs(ours - logits).max() <= 1e-5 * abs(logits).max()
    loaded = model.parse(header, arrays)
    np.testing.assert_allclose(loaded.predict(images), logits, rtol=0, atol=1e-5 * abs(logits).max())


@pytest.mark.parametrize("name", sorted(FULL_PRECISION))
def test_full_precision_models(name):
    images = real_images(name)
    net, variables = variables_of(name, images.shape[1:])
    logits, _ = flax_outputs(net, variables, images)
    loaded = model.parse(*file_of(name, variables, images.shape[1:], Convs("float")))
    np.testing.assert_allclose(loaded.predict(images), logits, rtol=0, atol=1e-5 * abs(logits).max())


@pytest.mark.parametrize("name", ["digits_resnet8", "cifar_resnet18a", "cifar_vgg_small"])
@pytest.mark.parametrize(
    "conv,convs",
    [
        (CONVS["float"], Convs("float")),
        (functools.partial(BinaryConv, scale="none", binary_weights=False), Convs("binary_activations", "none")),
        (functools.partial(BinaryConv, scale="mean"), Convs(scale="mean")),
        (
            functools.partial(BinaryConv, scale="mean", b=1.0, centre=False),
            Convs(scale="mean", laplace_b=1.0, centre=False),
        ),
        (functools.partial(BinaryConv, standardize=False, clamp=False), Convs(standardize=False, clamp=False)),
    ],
    ids=["float", "binary_activations", "mean", "uncentred", "plain"],
)
def test_other_convolutions(name, conv, convs):
    images = real_images(name)
    net, variables = variables_of(name, images.shape[1:], conv=conv)
    logits, _ = flax_outputs(net, variables, images)
    loaded = model.parse(*file_of(name, variables, images.shape[1:], convs))
    np.testing.assert_allclose(loaded.predict(images), logits, rtol=0, atol=1e-5 * abs(logits).max())


def test_what_follows_a_convolution_joins_it():
    kinds = {}
    for name in ("cifar_vgg_small", "cifar_resnet18", "imagenet_resnet18"):
        shape = (64, 64, 3)
        _, variables = variables_of(name, shape)
        header, arrays = file_of(name, variables, shape)
        kinds[name] = [step.kind for step in runtime.plan(graph.check(header["operations"], arrays))]
    # All but the last convolution, which real numbers follow.
    assert kinds["cifar_vgg_small"].count("conv_thresholds") == 4
    # The inner ones, and those with a shortcut.
    assert [kinds["cifar_resnet18"].count(k) for k in ("conv_thresholds", "conv_affine")] == [8, 8]
    assert kinds["imagenet_resnet18"].count("conv_affine") == 16
    # The stem's signs, alone or, where a shortcut takes the numbers too, after them; all others come with the numbers.
    stems = {"cifar_vgg_small": "norm_sign", "cifar_resnet18": "sign", "imagenet_resnet18": "sign"}
    for name, steps in kinds.items():
        assert not {"affine", "add", "threshold"} & set(steps)
        assert [kind for kind in steps if "sign" in kind] == [stems[name]]


def test_thresholds_are_float64_folding_for_every_sum():
    r = np.random.default_rng(0)
    largest, channels = 4608, 200
    alpha, mean, factor, bias = r.standard_normal((4, channels)).astype(np.float32)
    alpha, mean = alpha / 20, mean * 3
    alpha[:2], factor[2:4], mean[4], bias[4] = 0, 0, 0, 0  # constant, and 0 at the sum 0
    bias[:4] = 1, -1, 1, -1
    alpha[5:7], bias[5:7], factor[5:7] = 1e-6, (50, -50), 1  # one sign throughout
    alpha[7], mean[7], factor[7], bias[7] = 0.5, 1, 2, 0  # 0 at the sum 2 exactly
    threshold, direction = fold.thresholds(alpha, np.stack([mean, factor, bias]), largest)
    assert set(direction) == {-1, 1}
    sums = np.arange(-largest, largest + 1)
    for c in range(channels):
        folded = np.float64(alpha[c]) * np.float64(factor[c]) * sums + (
            np.float64(bias[c]) - np.float64(mean[c]) * np.float64(factor[c])
        )
        bits = direction[c] * sums >= threshold[c]
        differ = sums[bits != (folded >= 0)]
        # Multiplied out, float64 is a rounding away from the exact value, which decides where the value is 0.
        exact = [_exact(alpha[c], s, mean[c], factor[c], bias[c]) for s in differ.tolist()]
        assert [bool(b) for b in direction[c] * differ >= threshold[c]] == [e >= 0 for e in exact], c
    assert len(np.unique(threshold)) > 150


def _exact(alpha, s, mean, factor, bias):
    from fractions import Fraction

    a, m, f, b = (Fraction(float(v)) for v in (alpha, mean, factor, bias))
    return (a * s - m) * f + b
