"""Writes one network for all engines: 1 bit per weight as .recu and ONNX, and its float twin as ONNX, float32 and int8.

The float twin has real weights and activations. Its batch norm is in its kernels, and it takes normalized pixels,
channels first: so it does less than the 1-bit network, which takes uint8 pixels.
"""

import copy
import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import onnx
from onnxruntime import quantization

from experiments.benchmarks.engines.workers import normalize
from recu_jax import create_model, data, layers, networks
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.deploy import build, container, families, model, onnx_export, trained

# Shape of an image and number of classes, by network.
NETWORKS = {
    "digits_resnet8": ((8, 8, 1), 10),
    "cifar_resnet20": ((32, 32, 3), 10),
    "cifar_vgg_small": ((32, 32, 3), 10),
    "cifar_resnet18": ((32, 32, 3), 10),
    "imagenet_resnet18": ((224, 224, 3), 1000),
}
# Images of a data set, or random ones, that int8 is calibrated with.
CALIBRATION_IMAGES, RANDOM_IMAGES = 64, 8
# Types of activations and weights. onnxruntime's kernels for the two differ.
INT8 = {"u8s8": quantization.QuantType.QUInt8, "s8s8": quantization.QuantType.QInt8}


class TwinWriter(onnx_export.Writer):
    """Writes nodes of `folded` as ONNX, from normalized pixels, (1, channels, height, width)."""

    def image(self, mean, std):
        return onnx_export.IMAGES

    def sums(self, x):
        return x

    def _conv(self, node, x, kernel, shape):
        (top, bottom), (left, right) = node.attributes["padding"]
        bias = self.constant(node.arrays["bias"], "bias")
        strides, pads = list(node.attributes["strides"]), [top, left, bottom, right]
        return self.add("Conv", x, kernel, bias, kernel_shape=shape[:2], strides=strides, pads=pads)


def folded(nodes):
    """Returns the nodes of a float network, with each batch norm in the convolution before or the linear layer after.

    A batch norm stays where neither is beside it. Each convolution gets an array "bias".
    """
    users = [[i for i, user in enumerate(nodes) if n in user.inputs] for n in range(len(nodes))]
    arrays = [dict(node.arrays) for node in nodes]
    for of, node in zip(arrays, nodes, strict=True):
        if node.op == "conv":
            of["bias"] = np.zeros(of["kernel"].shape[-1], np.float32)
    gone = {}
    for n, node in enumerate(nodes):
        if node.op != "batch_norm":
            continue
        mean, factor, bias = node.arrays["norm"]
        bias, source, after = bias - mean * factor, node.inputs[0], users[n][0]
        # The largest value of a window stays the largest if the factor is positive.
        if nodes[source].op == "max_pool" and len(users[source]) == 1 and (factor > 0).all():
            source = nodes[source].inputs[0]
        if nodes[source].op == "conv" and len(users[source]) == 1:
            arrays[source] = {"kernel": arrays[source]["kernel"] * factor, "bias": bias}
        elif nodes[after].op == "dense" and len(users[n]) == 1:
            kernel = arrays[after]["kernel"]
            arrays[after] = {"kernel": factor[:, None] * kernel, "bias": arrays[after]["bias"] + bias @ kernel}
        else:
            continue
        gone[n] = node.inputs[0]
    kept = [n for n in range(len(nodes)) if n not in gone]
    numbers = {n: i for i, n in enumerate(kept)}
    numbers |= {n: numbers[source] for n, source in gone.items()}
    return [
        dataclasses.replace(nodes[n], inputs=tuple(numbers[i] for i in nodes[n].inputs), arrays=arrays[n]) for n in kept
    ]


def untrained(name: str, parts: build.BlockParts, **fields) -> tuple[dict, dict]:
    """Returns header and arrays of a network whose values are about 1 in all layers, as in a trained one.

    Initial weights would not do: values shrink from layer to layer, and processors take long for numbers below 1e-38.
    """
    shape, classes = NETWORKS[name]
    made = jax.eval_shape(create_model(name, classes, **fields).init, jax.random.key(0), np.zeros((1, *shape)))
    random = np.random.default_rng(0)
    constants = {"alpha": 1 / 32, "scale": 1, "var": 1, "tau": 0.9}

    def value(path, leaf):
        last = path[-1].key
        if last == "kernel":
            kernel = random.standard_normal(leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return np.asarray(kernel, np.float32)
        return np.full(leaf.shape, constants.get(last, 0), np.float32)

    variables = jax.tree.map_with_path(value, dict(made))
    statistics = IMAGENET_MEAN[: shape[2]], IMAGENET_STD[: shape[2]]
    entries, arrays = families.operations(name, variables, parts, shape, *statistics)
    return {"format": model.FORMAT, "model": name, "operations": entries}, arrays


def _calibration(images):
    """Returns a reader that gives onnxruntime's quantization one image after the other."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._left = iter(images)

        def get_next(self):
            image = next(self._left, None)
            return None if image is None else {onnx_export.IMAGES: image[None]}

    return Reader()


def write(name: str, folder: pathlib.Path, data_of: tuple[str, str | None] | None, float_run: str | None) -> None:
    """Writes the files of a network to `folder`. Their names begin with `name`.

    It writes `NAME.npz` last: the images, and which of the two networks are trained.

    Args:
      name: one of `NETWORKS`.
      folder: of the files.
      data_of: name and place of a data set, as for `recu_jax.data.load`; None takes random pixels.
      float_run: folder of a run that trained the float twin; None takes random weights.
    """
    recu = folder / f"{name}.recu"
    if name in networks.NAMES:
        shutil.copy(networks.file(name), recu)
    else:
        container.write(recu, *untrained(name, build.BlockParts()))
    container.write_bytes(folder / f"{name}.onnx", onnx_export.serialize(model.load(recu)))

    if float_run:
        header, arrays = trained.network(trained.read_trained(float_run))
    else:
        header, arrays = untrained(name, build.BlockParts(conv="float"), conv=layers.Conv)
    twin = copy.copy(model.parse(header, arrays))
    image = twin.nodes[0].attributes
    twin.nodes = folded(twin.nodes)
    height, width, channels = twin.image_shape
    float32 = folder / f"{name}_float32.onnx"
    shape = (1, channels, height, width)
    container.write_bytes(float32, onnx_export.make_bytes(twin, TwinWriter(), onnx.TensorProto.FLOAT, shape))

    random = np.random.default_rng(0).integers(0, 256, (RANDOM_IMAGES, *twin.image_shape), np.uint8)
    seen, test, labels = random, random[:1], np.zeros(0, int)
    if data_of:
        loaded = data.load(*data_of)
        seen, test, labels = loaded.train_images[:CALIBRATION_IMAGES], loaded.test_images, loaded.test_labels
    seen = normalize(seen, image["mean"], image["std"])
    ready = folder / f"{name}_ready.onnx"
    quantization.quant_pre_process(str(float32), str(ready), skip_symbolic_shape=True)
    for kind, activations in INT8.items():
        quantization.quantize_static(
            str(ready), str(folder / f"{name}_{kind}.onnx"), _calibration(seen), per_channel=True,
            activation_type=activations, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    np.savez(
        folder / f"{name}.npz", calibration=seen, pixels=test, labels=labels, mean=image["mean"], std=image["std"],
        trained=[name in networks.NAMES, bool(float_run)],
    )  # fmt: skip
