"""Runs a compiled kernel on each device's part of a batch, under `jit` with sharded arrays.

XLA cannot look into a compiled kernel. Without the partitioning rules of this module, XLA would gather the whole batch
on every device.
"""

import math
import string
from collections.abc import Callable, Sequence

import jax
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec


def over_batch(
    function: Callable[..., jax.Array], *args: jax.Array, batched: Sequence[bool], summed: bool = False
) -> jax.Array:
    """Computes `function(*args)`. If the batch is sharded, each device computes its part of the batch.

    Under `vmap` each device calls `function` for one element after the other. The axis of `vmap` may be sharded too.
    JAX cannot differentiate the result: callers define the derivative.

    Args:
      function: takes arrays and returns one array. The part of the batch that it gets may have any size.
      *args: arguments of `function`.
      batched: for each argument, whether its first axis is the batch. Each device gets the other arguments whole.
      summed: whether the result is a sum over the batch. Otherwise its first axis is the batch.
    """
    if not all(math.prod(arg.shape) for arg in args):
        return function(*args)  # XLA does not partition empty arrays

    @custom_vmap
    def once(*args):
        return _partitioned(function, args, [False] * len(args), batched, summed)

    @once.def_vmap
    def mapped(axis_size, is_mapped, *args):
        @sequential_vmap
        def each(*args):
            return _partitioned(function, args, is_mapped, batched, summed)

        return each(*args), True

    return once(*args)


def _partitioned(function, args, mapped, batched, summed):
    """Computes `function(*args)`, each device on its part of the batch.

    `mapped` says for each argument whether `function` is mapped over the argument's first axis. If such an argument
    also has a batch, as `batched` says, the batch is its second axis. The rest is as in `over_batch`.
    """

    def whole(*args):
        if not any(mapped):
            return function(*args)
        over = [arg for arg, m in zip(args, mapped, strict=True) if m]

        def one(given):
            given = iter(given)
            return function(*(next(given) if m else arg for arg, m in zip(args, mapped, strict=True)))

        return lax.map(one, over)

    def shardings(mesh, arg_shapes):
        """Returns the mesh axes over which the batch is sharded, and the shardings of the arguments and the result."""

        def axes_of(flags, position):
            for arg, flag, m in zip(arg_shapes, flags, mapped, strict=True):
                # Within `jax.set_mesh`, arrays that are not placed on the mesh have a sharding without a spec.
                spec = getattr(arg.sharding, "spec", ())
                if flag and len(spec) > position * m:
                    return spec[position * m]
            return None

        of_map, of_batch = axes_of(mapped, 0), axes_of(batched, 1)

        def placed(is_mapped, has_batch):
            return NamedSharding(mesh, PartitionSpec(*[of_map] * is_mapped, *[of_batch] * has_batch))

        of_args = tuple(placed(m, b) for m, b in zip(mapped, batched, strict=True))
        return of_batch, of_args, placed(any(mapped), not summed)

    def partition(mesh, arg_shapes, result_shape):
        of_batch, of_args, of_result = shardings(mesh, arg_shapes)

        def of_part(*args):
            y = whole(*args)
            return lax.psum(y, of_batch) if summed and of_batch else y

        return mesh, of_part, of_result, of_args

    def infer(mesh, arg_shapes, result_shape):
        return shardings(mesh, arg_shapes)[2]

    rule, fixed = _rule(args, mapped, batched, summed, jax.eval_shape(whole, *args).ndim)
    call = custom_partitioning(whole)
    call.def_partition(
        partition, infer_sharding_from_operands=infer, sharding_rule=rule, need_replication_factors=fixed,
        reduction_factors=("b",) if summed else (),
    )  # fmt: skip
    return call(*args)


def _rule(args, mapped, batched, summed, result_ndim):
    """Returns the sharding rule for Shardy, XLA's partitioner, and the names of the axes that are not sharded.

    `a` is the mapped axis and `b` the batch. Every other axis has a name of its own and is not sharded.
    """
    names = iter(first + second for first in string.ascii_lowercase[2:] for second in string.ascii_lowercase)
    fixed = []

    def axes(ndim, is_mapped, has_batch):
        own = [next(names) for _ in range(ndim - is_mapped - has_batch)]
        fixed.extend(own)
        return " ".join(["a"] * is_mapped + ["b"] * has_batch + own)

    of_args = ", ".join(axes(arg.ndim, m, b) for arg, m, b in zip(args, mapped, batched, strict=True))
    return f"{of_args} -> {axes(result_ndim, any(mapped), not summed)}", tuple(fixed)
