"""Executes the operations of a file as one function for `jit`.

Where possible, one call of a compiled kernel computes a binary convolution and the operations after it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recu_jax.deploy.graph import Node
from recu_jax.ops import packed as ops
from recu_jax.ops.conv import per_channel
from recu_jax.ops.packing import pack_groups, unpack_groups, word_count


@dataclasses.dataclass(frozen=True)
class Step:
    """One or more operations that are computed together.

    An operation has its position in the file as its index. Its output value has the same index.

    Attributes:
      kind: the name of a single operation, or one of the joined kinds. "conv_thresholds" and "conv_affine" are a binary
        convolution with the operations after it. "norm_sign" is a batch norm with the sign after it.
      node: the first operation.
      inputs: indices of the input values.
      output: index of the output value.
      signs: for "conv_affine", index of a second output value, which holds the signs of the first; None if no sign
        operation follows. The other kinds have one output value.
      after: for a joined convolution, the array of its threshold or affine operation.
      clamp: for "conv_affine", whether a hard tanh bounds the output.
    """

    kind: str
    node: Node
    inputs: tuple[int, ...]
    output: int
    signs: int | None = None
    after: Any = None
    clamp: bool = False


def plan(nodes: Sequence[Node]) -> list[Step]:
    """Groups operations into steps.

    A binary convolution becomes one step with a threshold or an affine operation after it. The addition of a shortcut,
    a hard tanh and a sign after the affine operation join its step. A batch norm and a sign become one step.

    An operation joins a step only if no other operation uses the step's last value. There is one exception: other
    operations may also use the values whose signs "conv_affine" takes. Joining operations saves passes over memory,
    which helps small networks most.
    """
    users: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for i in node.inputs:
            users[i].append(number)

    def only_user(number, op):
        """Returns the index of the only operation that uses a value, if that operation is an `op`, otherwise None."""
        return users[number][0] if len(users[number]) == 1 and nodes[users[number][0]].op == op else None

    steps: dict[int, Step] = {}
    joined: set[int] = set()
    for number, node in enumerate(nodes):
        if number in joined:
            continue
        if node.op == "batch_norm":
            # A hard tanh between batch norm and sign does not change the sign, so it is left out.
            bound = only_user(number, "hard_tanh")
            if (end := only_user(number if bound is None else bound, "sign")) is not None:
                joined.update({end} if bound is None else {bound, end})
                steps[end] = Step("norm_sign", node, node.inputs, end)
                continue
        if node.op != "binary_conv":
            steps[number] = Step(node.op, node, node.inputs, number)
            continue
        if (end := only_user(number, "threshold")) is not None:
            joined.add(end)
            steps[end] = Step("conv_thresholds", node, node.inputs, end, after=nodes[end].arrays["threshold"])
        elif (end := only_user(number, "affine")) is not None:
            inputs, chain, clamp, after = node.inputs, [end], False, nodes[end].arrays["affine"]
            # The shortcut may be computed after the convolution. So the step takes the position of its last operation
            # before the sign: the affine operation, the addition or the hard tanh.
            if (total := only_user(end, "add")) is not None and nodes[total].inputs[0] != nodes[total].inputs[1]:
                inputs += tuple(i for i in nodes[total].inputs if i != end)
                chain.append(total)
                end = total
            if (bound := only_user(end, "hard_tanh")) is not None:
                chain.append(bound)
                end, clamp = bound, True
            signs = next((user for user in users[end] if nodes[user].op == "sign"), None)
            if signs is not None:
                chain.append(signs)
            joined.update(chain)
            steps[end] = Step("conv_affine", node, inputs, end, signs, after, clamp)
        else:
            steps[number] = Step(node.op, node, node.inputs, number)
    return [steps[number] for number in sorted(steps)]


def compile_steps(
    nodes: Sequence[Node], backend: str, watched: Sequence[int] | None = None, place: Callable = np.asarray
) -> tuple[Callable, list[dict[str, Any]]]:
    """Returns a function that runs the operations, and the arrays to pass as its first argument.

    The function takes these arrays and uint8 images, (batch, height, width, channels). It returns float32 logits,
    (batch, classes). It can be compiled by `jit`.

    Args:
      nodes: the operations.
      backend: the kernels that compute the binary layers, as in `recu_jax.ops.packed.arrange_kernel`.
      watched: indices of values. If given, the function returns a list of these values instead of the logits. A value
        that is only computed inside a joined step is None.
      place: function that is applied to packed weights before they are arranged for the backend. With `jnp.asarray`
        inside a trace, the compiled program itself arranges the weights, so it stores only one bit per weight.
    """
    steps = plan(nodes)
    arrays = [_prepared(step, backend, nodes, place) for step in steps]
    last_use = {i: at for at, step in enumerate(steps) for i in step.inputs}

    def logits(arrays, images):
        values: dict[int, jax.Array] = {}
        for at, (step, own) in enumerate(zip(steps, arrays, strict=True)):
            inputs = [values[i] for i in step.inputs] if step.inputs else [images]
            result = _do(step, own, inputs, nodes, backend)
            if step.signs is not None:
                result, values[step.signs] = result
            values[step.output] = result
            for i in step.inputs:
                if last_use[i] == at and watched is None:
                    values.pop(i, None)
        return values[len(nodes) - 1] if watched is None else [values.get(i) for i in watched]

    return logits, arrays


def _prepared(step, backend, nodes, place):
    """Returns the arrays of a step, with binary kernels arranged for the backend and dense kernels transposed."""
    own = dict(step.node.arrays)
    if step.node.op == "binary_conv":
        channels = nodes[step.node.inputs[0]].value.shape[-1]
        own["kernel"] = ops.arrange_kernel(place(own["kernel"]), channels, 1, backend)
        own["after"] = step.after
    elif step.node.op == "dense":
        own["kernel"] = np.ascontiguousarray(own["kernel"].T)
    return own


def _do(step, own, inputs, nodes, backend):
    node, x = step.node, inputs[0]
    if node.op == "binary_conv":
        geometry = node.geometry(nodes[node.inputs[0]].value, x.shape[0])
        if step.kind == "conv_thresholds":
            return ops.conv_thresholds(x, own["kernel"], geometry, own["after"])
        if step.kind == "conv_affine":
            shortcut = inputs[1] if len(inputs) > 1 else None
            y, bits = ops.conv_affine(x, own["kernel"], geometry, own["after"], shortcut, step.clamp)
            return y if step.signs is None else (y, bits)
        return ops.conv_sums(x, own["kernel"], geometry)
    if step.kind in ("sign", "norm_sign"):
        return ops.pack(x, backend=backend, norm=own.get("norm"))
    if node.op == "max_pool" and node.value.kind == "bits":
        return _max_pool_bits(node, own, x)
    if node.op == "conv" and nodes[node.inputs[0]].value.kind == "bits":
        x = unpack_groups(x, nodes[node.inputs[0]].value.shape[-1])
    return _REAL[node.op](node, own, x, *inputs[1:])


def _image(node, own, x):
    # Training divides in the same way. Products with the inverse would round differently and change signs.
    mean, std = (
        per_channel(jnp.asarray(node.attributes[k], jnp.float32), x.astype(jnp.float32)) for k in ("mean", "std")
    )
    return (x.astype(jnp.float32) / 255 - mean) / std


def _conv(node, own, x):
    a = node.attributes
    return lax.conv_general_dilated(
        x, own["kernel"], a["strides"], a["padding"], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _affine(node, own, x):
    alpha, mean, factor, bias = (per_channel(row, x.astype(jnp.float32)) for row in own["affine"])
    return (x.astype(jnp.float32) * alpha - mean) * factor + bias


def _threshold(node, own, x):
    threshold, direction = (per_channel(row, x) for row in own["threshold"])
    return pack_groups(jnp.where(direction * x >= threshold, 0.0, -1.0))


def _windows(node, x, filler):
    """Yields an array of the output's shape for each position in the pooling window, row by row."""
    a = node.attributes
    x = jnp.pad(x, [(0, 0), *a["padding"], (0, 0)], constant_values=filler)
    height, width = node.value.shape[:2]
    for row in range(a["window"][0]):
        for column in range(a["window"][1]):
            stop = (row + (height - 1) * a["strides"][0] + 1, column + (width - 1) * a["strides"][1] + 1)
            yield x[:, row : stop[0] : a["strides"][0], column : stop[1] : a["strides"][1]]


def _max_pool(node, own, x):
    # `lax.reduce_window` is not used, because XLA's CPU compiler turns it into a scalar loop.
    first, *others = _windows(node, x, -jnp.inf)
    for other in others:
        first = jnp.maximum(first, other)
    return first


def _max_pool_bits(node, own, x):
    """Computes the largest bit of each window, or the smallest bit in the channels that `least` marks.

    OR gives the largest bit. For the smallest bit, the bits are inverted before and after the OR.
    """
    least = jnp.pad(own["least"], (0, word_count(node.value.shape[-1]) - own["least"].shape[0]))
    least = lax.expand_dims(least, (0, 1, 2))
    first, *others = _windows(node, x ^ least, 0)
    for other in others:
        first = first | other
    return first ^ least


def _avg_pool(node, own, x):
    first, *others = _windows(node, x, 0.0)
    for other in others:
        first = first + other
    return first / np.float32(len(others) + 1)


def _pad_channels(node, own, x):
    return jnp.pad(x, [(0, 0)] * 3 + [node.attributes["channels"]])


def _flatten(node, own, x):
    # Without the barrier, XLA also flattens the loop before this operation. That loop is then scalar and several times
    # slower.
    return lax.optimization_barrier(x).reshape(x.shape[0], -1)


def _dense(node, own, x):
    # The kernel is stored as (classes, features), so that the weights of a class lie together in memory. For the 10
    # classes of cifar_vgg_small this is several times faster.
    return lax.dot_general(x, own["kernel"], (((1,), (1,)), ((), ()))) + per_channel(own["bias"], x)


_REAL: dict[str, Callable[..., jax.Array]] = {
    "image": _image,
    "conv": _conv,
    "batch_norm": lambda node, own, x: ops.batch_norm(x, own["norm"]),
    "hard_tanh": lambda node, own, x: jax.nn.hard_tanh(x),
    "relu": lambda node, own, x: jnp.maximum(x, 0),
    "prelu": lambda node, own, x: jnp.where(x > 0, x, per_channel(own["slope"], x) * x),
    "shift": lambda node, own, x: x + per_channel(own["bias"], x),
    "add": lambda node, own, x, y: x + y,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "pad_channels": _pad_channels,
    "mean": lambda node, own, x: x.mean((1, 2)),
    "flatten": _flatten,
    "dense": _dense,
    "scale": lambda node, own, x: x.astype(jnp.float32) * per_channel(own["alpha"], x.astype(jnp.float32)),
    "affine": _affine,
    "threshold": _threshold,
}
