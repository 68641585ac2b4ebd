"""Counts the binary activations that differ between a network's Flax model under `jit` and its other programs.

    python experiments/compare_signs.py --images=DIR --out=signs.json          # imagenet_resnet18 on DIR/*.JPEG
    python experiments/compare_signs.py --workdir=RUN --data_dir=DIR --out=signs.json           # a CIFAR-10 run

The images are the first `--count` photographs or test images of CIFAR-10. The other programs compute the same float32
network: the Flax model without `jit`, the exported file, and the file with alpha and batch norm folded into one product
and one sum. Exported files do not fold them. The network for photographs has the random weights of the golden-value
tests, because no trained ImageNet network is available.
"""

import argparse
import json
import pathlib
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from recu_jax import create_model, set_xla_flags
from recu_jax.data import load
from recu_jax.data.transform import Transform
from recu_jax.deploy import graph, runtime
from recu_jax.ops import native, packing
from recu_jax.pytorch.variables import from_torch
from recu_jax.training.checkpoint import read_best
from tests.support import golden_values
from tests.support.random_networks import file_of, flax_outputs


def multiplied_out(arrays):
    """Folds alpha and batch norm of each layer into one product and one sum, computed in float64."""

    def fold(rows):
        alpha, mean, factor, bias = np.float64(rows)
        return np.float32([alpha * factor, 0 * mean, 0 * factor + 1, bias - mean * factor])

    return {name: fold(array) if name.endswith(".affine") else array for name, array in arrays.items()}


def watched(nodes):
    """Returns a function from images to the logits and the signs that go into each binary convolution."""
    inputs = [node.inputs[0] for node in nodes if node.op == "binary_conv"]
    function, arrays = runtime.compile_steps(nodes, native.cpu_backend(), [*inputs, len(nodes) - 1])
    compiled = jax.jit(function)

    def run(images):
        *words, logits = compiled(arrays, images)
        channels = [nodes[i].value.shape[-1] for i in inputs]
        return np.asarray(logits), [packing.unpack_bits(np.asarray(w), c) for w, c in zip(words, channels, strict=True)]

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=pathlib.Path)
    parser.add_argument("--workdir")
    parser.add_argument("--data_dir")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--count", type=int, default=24, help="number of images")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    set_xla_flags()
    if args.images:
        name, classes, transform = "imagenet_resnet18", 1000, Transform()
        files = sorted(args.images.glob("*.JPEG"))[: args.count]
        images = np.stack([transform.evaluate(file.read_bytes()) for file in files])
        variables = from_torch(name, golden_values.state_dict(golden_values.load(name)[0]))
    else:
        _, record, variables = read_best(args.workdir)
        name, classes, images = record["config"]["model"], 10, load("cifar10", args.data_dir).test_images[: args.count]
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    net = create_model(name, classes)
    header, arrays = file_of(name, variables, images.shape[1:], num_classes=classes)
    programs = {
        "file": watched(graph.check(header["operations"], arrays)),
        "file_multiplied_out": watched(graph.check(header["operations"], multiplied_out(arrays))),
    }

    def one_by_one(batch):
        with jax.disable_jit():
            return flax_outputs(net, variables, batch)

    programs["flax_one_by_one"] = one_by_one
    result = {key: {"differing_signs": 0, "largest_relative_logit_difference": 0.0} for key in programs}
    signs_seen = 0
    for first in range(0, len(images), args.batch):
        batch = images[first : first + args.batch]
        logits, signs = flax_outputs(net, variables, batch)
        signs_seen += sum(s.size for s in signs)
        for key, program in programs.items():
            other, other_signs = program(batch)
            found = result[key]
            found["differing_signs"] += sum(int((a != b).sum()) for a, b in zip(other_signs, signs, strict=True))
            difference = float(abs(other - logits).max() / abs(logits).max())
            found["largest_relative_logit_difference"] = max(found["largest_relative_logit_difference"], difference)
    versions = {"python": platform.python_version(), "jax": jax.__version__, "kernels": native.cpu_backend()}
    result = {"model": name, "images": len(images), "signs": signs_seen, **result, "versions": versions}
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
