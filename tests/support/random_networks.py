"""Makes registered networks with random variables, and computes their outputs with the Flax model."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import create_model, layers
from recu_jax.data.augment import normalize
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.deploy import build, container, families, model
from recu_jax.layers import BinaryConv

# Shape of a digit, and three random images of this shape.
SHAPE = (8, 8, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)


def statistics(channels):
    return IMAGENET_MEAN[:channels], IMAGENET_STD[:channels]


def variables_of(name, image_shape, num_classes=10, seed=0, **fields):
    """Returns a network and random variables.

    Some values of alpha and of batch norm's scale are negative, so that the code for negative values runs, too.
    """
    net = create_model(name, num_classes, **fields)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    r = np.random.default_rng(seed)

    def draw(path, shape):
        normal = r.standard_normal(shape.shape)
        if path[-1] == "kernel":
            return normal * np.sqrt(2 / max(np.prod(shape.shape[:-1]), 1))
        if path[-1] == "alpha":  # so small that sums times alpha are of the order of 1
            return normal / 10
        if path[-1] in ("scale", "slope"):
            return 0.7 * normal + 0.3
        return abs(1 + 0.1 * normal) if path[-1] == "var" else 0.9 if path[-1] == "tau" else 0.1 * normal

    drawn = {path: jnp.asarray(draw(path, leaf), jnp.float32) for path, leaf in flatten_dict(dict(shapes)).items()}
    return net, {"batch_stats": {}, **unflatten_dict(drawn)}


def flax_outputs(net, variables, images):
    """Returns the logits, and the input signs of each binary convolution: True for +1. Runs one jitted program."""
    mean, std = statistics(images.shape[-1])

    @jax.jit
    def run(variables, images):
        signs = []

        def watch(method, args, kwargs, context):
            if isinstance(context.module, BinaryConv) and context.method_name == "__call__":
                signs.append(args[0] >= 0)
            return method(*args, **kwargs)

        with nn.intercept_methods(watch):
            return net.apply(variables, normalize(images, mean, std)), signs

    logits, signs = run(variables, images)
    return np.asarray(logits), [np.asarray(s) for s in signs]


def file_of(name, variables, image_shape, parts=None, num_classes=10):
    """Returns the header and the arrays of the network's file for `container.write`."""
    entries, arrays = families.operations(
        name, variables, parts or build.BlockParts(), image_shape, *statistics(image_shape[-1])
    )
    header = {"format": model.FORMAT, "model": name, "operations": entries}
    return header | {"class_names": [f"class {i}" for i in range(num_classes)]}, arrays


def sizes(name, image_shape, num_classes, path):
    """Writes the network's file to `path`. Returns the size in bytes of the file, and of the parameters in float32."""
    _, variables = variables_of(name, image_shape, num_classes)
    container.write(path, *file_of(name, variables, image_shape, num_classes=num_classes))
    return path.stat().st_size, sum(leaf.nbytes for leaf in jax.tree.leaves(variables["params"]))


CONVS = {"binary": BinaryConv, "float": layers.Conv}
