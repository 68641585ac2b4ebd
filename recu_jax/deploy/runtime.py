"""Executes the operations of a file: one jitted function, with what follows a binary convolution done in one go."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recu_jax.bits import ops
from recu_jax.bits.packing import pack_groups, unpack_groups, word_count
from recu_jax.conv import per_channel
from recu_jax.deploy.graph import Node


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to do: an operation, or one with those after it.

    Attributes:
      kind: the operation, or "conv_thresholds" or "conv_affine" for a binary convolution with more, or "norm_sign".
      node: of the operation, or of the first.
      inputs: numbers of values.
      output: number of the value that comes out.
      signs: number of the value that its signs are, where they come out with it.
      after: of a convolution, the arrays of the operation after it, by role.
      clamp: whether a hard tanh is the end of it.
    """

    kind: str
    node: Node
    inputs: tuple[int, ...]
    output: int
    signs: int | None = None
    after: Any = None
    clamp: bool = False


def plan(nodes: Sequence[Node]) -> list[Step]:
    """The steps that do `nodes`: thresholds, batch norm, shortcut, hard tanh and sign join the convolution before.

    It saves passes over memory, which small networks notice most. A batch norm of which only the signs are used is
    joined by its sign.
    """
    users: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        for i in node.inputs:
            users[i].append(number)

    def only_user(number, op):
        """The operation that alone uses a value, if it is an `op`."""
        return users[number][0] if len(users[number]) == 1 and nodes[users[number][0]].op == op else None

    steps: dict[int, Step] = {}
    joined: set[int] = set()
    for number, node in enumerate(nodes):
        if number in joined:
            continue
        if node.op == "batch_norm":
            # A hard tanh between them changes no sign.
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
            # The other side of the sum may be any value: what is joined is done where its last operation stands.
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
    """A function of (arrays, images) and its arrays.

    The function takes uint8 images, (batch, height, width, channels), gives float32 logits, (batch, classes), and may
    be jitted.

    Args:
      nodes: the operations.
      backend: what computes the binary layers, see `ops.arrange_kernel`.
      watched: numbers of values that the function gives instead, in a list; such as are joined into others are None.
      place: what becomes of packed weights before they are arranged for the backend: `jnp.asarray`, called within a
        trace, leaves that to the compiled program, which then holds a bit a weight.
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
    """The arrays that a step computes with."""
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
    # Divided as in training: the order of roundings decides signs.
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
    """The pixels of each place of a pooling window, as arrays of the output's size, row by row."""
    a = node.attributes
    x = jnp.pad(x, [(0, 0), *a["padding"], (0, 0)], constant_values=filler)
    height, width = node.value.shape[:2]
    for row in range(a["window"][0]):
        for column in range(a["window"][1]):
            stop = (row + (height - 1) * a["strides"][0] + 1, column + (width - 1) * a["strides"][1] + 1)
            yield x[:, row : stop[0] : a["strides"][0], column : stop[1] : a["strides"][1]]


def _max_pool(node, own, x):
    # Not lax.reduce_window, which XLA's CPU compiler makes a scalar loop of.
    first, *others = _windows(node, x, -jnp.inf)
    for other in others:
        first = jnp.maximum(first, other)
    return first


def _max_pool_bits(node, own, x):
    """The largest bit of a window, or in the channels `least` the smallest, which is the largest of the opposites."""
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
    # Without the barrier XLA's loop before it, too, counts in one dimension, scalar: several times slower.
    return lax.optimization_barrier(x).reshape(x.shape[0], -1)


def _dense(node, own, x):
    # Rows of the turned kernel lie in one piece: several times faster for the 10 classes of cifar_vgg_small.
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
