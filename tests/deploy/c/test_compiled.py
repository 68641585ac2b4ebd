"""Tests that a folder of C, compiled for this machine, computes the same as the runtime of .recu files."""

import ctypes
import functools
import re
import shutil

import jax
import numpy as np
import pytest

from recu_jax import UserError, deploy
from recu_jax.deploy import build, graph, model, runtime
from recu_jax.deploy.c import compiled, source
from recu_jax.layers import BinaryConv, Conv
from recu_jax.ops import native
from recu_jax.ops.packing import pack_kernel, unpack_bits, unpack_kernel
from tests.support.random_networks import IMAGES, file_of, flax_outputs, variables_of

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler; install gcc or clang")
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
QUICKLY = ["-O0"]


@pytest.fixture(scope="module")
def folder(path, tmp_path_factory):
    made = tmp_path_factory.mktemp("c") / "digits"
    source.write(made, deploy.load(path))
    return made


@pytest.fixture(scope="module")
def predict(folder):
    return compiled.predictor(folder, QUICKLY)


@needs_cc
def test_the_logits_of_the_runtime(predict, path):
    found, want = predict(IMAGES), np.asarray(deploy.load(path).predict(IMAGES))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6 * abs(want).max())
    assert (found.argmax(-1) == want.argmax(-1)).all()


WATCH = """
#include <stdint.h>
#define RECU_WATCH(operation, pixel, sums, features) watch(operation, pixel, sums, features)
int32_t watched[{most}];
int watched_count;
static inline void watch(int operation, int pixel, const int32_t *sums, int features) {{
  (void)operation, (void)pixel;
  for (int i = 0; i < features && watched_count < {most}; i++) watched[watched_count++] = sums[i];
}}
"""


@needs_cc
def test_the_sums_of_the_runtime(folder, network, tmp_path, monkeypatch):
    """Compares all sums of all binary convolutions with NumPy's. NumPy gets the signs that the runtime computes."""
    header, arrays = network
    nodes = graph.check(header["operations"], arrays)
    convs = [(node, node.inputs[0]) for node in nodes if node.op == "binary_conv"]
    run, own = runtime.compile_steps(nodes, native.cpu_backend(), [signs for _, signs in convs])
    want = []
    for (node, signs), words in zip(convs, jax.jit(run)(own, IMAGES[:1]), strict=True):
        channels = nodes[signs].value.shape[-1]
        x = np.where(unpack_bits(np.asarray(words[0]), channels), 1, -1)
        kernel = unpack_kernel(node.arrays["kernel"], channels).astype(int)
        padded = np.pad(x, [*node.attributes["padding"], (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))
        (down, right) = node.attributes["strides"]
        want.append(np.einsum("yxcij,ijcf->yxf", windows[::down, ::right], kernel).ravel())
    want = np.concatenate(want)
    (tmp_path / "watch.h").write_text(WATCH.format(most=len(want)))
    libraries = []

    def load(path, real=ctypes.CDLL):
        libraries.append(real(path))
        return libraries[-1]

    monkeypatch.setattr(compiled.ctypes, "CDLL", load)
    compiled.predictor(folder, [*QUICKLY, "-include", str(tmp_path / "watch.h")])(IMAGES[:1])
    found = np.ctypeslib.as_array((ctypes.c_int32 * len(want)).in_dll(libraries[0], "watched"))
    np.testing.assert_array_equal(found, want)


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("options", [["-DRECU_PORTABLE"], [], ["-fsanitize=undefined", "-fno-sanitize-recover=all"]])
def test_no_warnings_with_any_instructions(folder, path, options):
    found = compiled.predictor(folder, [*WARNINGS, *options])(IMAGES)
    np.testing.assert_allclose(found, deploy.load(path).predict(IMAGES), rtol=0, atol=1e-5)


OF_SIGNS = functools.partial(BinaryConv, alpha="none", binary_weights=False)
# Networks with every kind of convolution: name, shape of the images, arguments of `create_model`, and arguments of
# `BlockParts` that describe the same network.
FAMILIES = [
    ("cifar_resnet18", (16, 16, 3), {}, {}),
    ("cifar_resnet18a", (16, 16, 3), {}, {}),
    ("cifar_vgg_small", (16, 16, 3), {}, {}),
    ("imagenet_resnet18", (64, 64, 3), {}, {}),
    ("react_resnet18", (32, 32, 3), {}, {}),
    ("digits_resnet8", (8, 8, 1), {"conv": Conv}, {"conv": "float"}),
    ("digits_resnet8", (8, 8, 1), {"conv": OF_SIGNS}, {"conv": "binary_activations", "alpha": "none"}),
    ("digits_resnet8", (8, 8, 1), {"nonlinearity": "rprelu"}, {"nonlinearity": "rprelu"}),
    ("digits_resnet8", (8, 8, 1), {"nonlinearity": "identity"}, {"nonlinearity": "identity"}),
]


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("name, shape, fields, parts", FAMILIES)
def test_each_family(name, shape, fields, parts, tmp_path):
    net, variables = variables_of(name, shape, **fields)
    header, arrays = file_of(name, variables, shape, build.BlockParts(**parts))
    source.write(tmp_path / "net", model.parse(header, arrays))
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    found = compiled.predictor(tmp_path / "net", [*WARNINGS, *QUICKLY])(images)
    for want in (np.asarray(model.parse(header, arrays).predict(images)), flax_outputs(net, variables, images)[0]):
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * abs(want).max())
        assert (found.argmax(-1) == want.argmax(-1)).all()


def rare_operations():
    """Returns header and arrays of a network with rare uses of operations, such as a pooling of the image itself."""
    r = np.random.default_rng(0)
    entries, arrays = [], {}

    def op(name, *inputs, strides=None, padding=(1, 1, 1, 1), **fields):
        """Adds an operation and returns its number. Arrays among `fields` become arrays of the operation.

        `padding` is used only together with `strides`.
        """
        own = {role: fields.pop(role) for role in list(fields) if isinstance(fields[role], np.ndarray)}
        names = {role: f"{len(entries)}.{role}" for role in own}
        arrays.update({names[role]: array for role, array in own.items()})
        windows = {"strides": strides, "padding": list(padding)} if strides else {}
        entries.append({"op": name, "inputs": list(inputs), "arrays": names, **windows, **fields})
        return len(entries) - 1

    def normal(*shape):
        return r.standard_normal(shape).astype(np.float32)

    image = op("image", shape=[6, 5, 2], mean=[0.4, 0.5], std=[0.3, 0.2])
    x = op("relu", op("conv", image, kernel=normal(3, 2, 2, 40), strides=[1, 1], padding=(1, 1, 0, 1)))
    signs = op("sign", op("shift", x, bias=normal(40)))
    sums = op("binary_conv", signs, kernel=pack_kernel(normal(3, 3, 40, 3)), strides=[1, 1])
    x = op("affine", sums, affine=normal(4, 3))
    x = op("add", x, x)
    pooled = op("pad_channels", op("max_pool", image, window=[3, 3], strides=[1, 1]), channels=[1, 0])
    # Three additions read x pixel by pixel. Only the result of the last of them may overwrite x.
    y = op("add", pooled, x)
    z = op("add", op("conv", image, kernel=normal(3, 3, 2, 3), strides=[1, 1]), x)
    z = op("add", op("add", op("max_pool", z, window=[3, 3], strides=[1, 1]), x), z)
    x = op("prelu", op("pad_channels", op("add", z, y), channels=[0, 2]), slope=normal(5))
    narrow = {"window": [2, 1], "strides": [2, 2], "padding": (0, 0, 0, 0)}
    x = op("add", op("avg_pool", x, **narrow), op("max_pool", x, **narrow))
    x = op("max_pool", x, window=[2, 2], strides=[2, 2], padding=(0, 1, 0, 1))
    x = op("prelu", op("flatten", x), slope=normal(20))
    op("dense", x, kernel=normal(20, 4), bias=normal(4))
    return {"format": 1, "model": "rare", "operations": entries}, arrays


@needs_cc
def test_operations_that_no_family_has(tmp_path):
    loaded = model.parse(*rare_operations())
    source.write(tmp_path / "rare", loaded)
    images = np.random.default_rng(1).integers(0, 256, (5, 6, 5, 2), np.uint8)
    found = compiled.predictor(tmp_path / "rare", [*WARNINGS, *QUICKLY])(images)
    want = np.asarray(loaded.predict(images))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * abs(want).max())


def test_mistakes_are_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"is no folder of `recu export --format=c`: it has no nothing\.h"):
        compiled.predictor(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "other.h").write_text("int x;\n")
    with pytest.raises(UserError, match=r"its header has no HEIGHT"):
        compiled.predictor(tmp_path / "other")
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(UserError, match=r"'no-such-compiler' is not installed; install gcc or clang, or set CC"):
        compiled.predictor(folder)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(UserError, match=re.escape(f"{folder} cannot be compiled by false")):
        compiled.predictor(folder)


@needs_cc
def test_images_of_another_shape_are_refused(predict):
    with pytest.raises(UserError, match=r"digits takes \(batch, 8, 8, 1\)"):
        predict(IMAGES[:, :7])
