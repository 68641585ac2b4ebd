"""Counts the multiply-accumulates of a traced program, by layer.

While a model is traced, the operations of each layer are in a scope (`jax.named_scope`) with the layer's number. The
result of a 1-bit layer also passes through a barrier (`optimization_barrier`). Each number of the result is a sum of
products, and the scope of the barrier gives the number of products in this sum.

This has two advantages. `vmap`, `scan` and other transformations multiply the counts of a layer without extra code. And
the counts do not depend on how a 1-bit layer computes: by convolving +-1 numbers, or by xor and popcount of bits.
"""

import contextlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr

from recu_jax.cost.counts import Macs

_LAYER = re.compile(r"recu_layer_(\d+);")
_PRODUCTS = re.compile(r"recu_products_(\d+)_(\d+)x(\d+);")


@contextlib.contextmanager
def layer_scope(number: int) -> Iterator[None]:
    """Assigns operations traced within the block to layer `number`, except operations in an inner `layer_scope`."""
    with jax.named_scope(f"recu_layer_{number};"):
        yield


def declare_products(y: jax.Array, products: int, weight_bits: int, activation_bits: int) -> jax.Array:
    """Returns `y`, and declares that each number in `y` is a sum of `products` products.

    This count replaces the count of the operations in the layer's scope.

    Args:
      y: result of a layer. The call must be within the layer's scope.
      products: number of products in the sum of each number in `y`.
      weight_bits, activation_bits: precision of each product.
    """
    with jax.named_scope(f"recu_products_{products}_{weight_bits}x{activation_bits};"):
        return lax.optimization_barrier(y)


def count_macs(jaxpr: Jaxpr) -> dict[int | None, Macs]:
    """Counts the multiply-accumulates of a program by layer. The key None has the operations outside all layers.

    Convolutions and matrix products count, in the precision of their operands. 1-bit layers count as declared by
    `declare_products`. The body of a `scan` counts as often as it runs, and the body of a `while` once. A `cond`
    counts as its most expensive branch. A convolution's products with padding count too.
    """
    found: dict[int | None, Counter] = defaultdict(Counter)
    declared: dict[int | None, Counter] = defaultdict(Counter)
    for operation in _operations(jaxpr):
        (declared if operation.declared else found)[operation.layer][operation.precision] += operation.macs
    return {**found, **declared}


class _Operation(NamedTuple):
    layer: int | None
    precision: tuple[int, int]
    macs: int
    declared: bool


def _operations(jaxpr: Jaxpr, layer: int | None = None, times: int = 1) -> Iterator[_Operation]:
    for eqn in jaxpr.eqns:
        scope, primitive = str(eqn.source_info.name_stack), eqn.primitive.name
        # In a sub-program, such as the body of a `scan`, the name stack of an operation may lack the scopes around the
        # sub-program. If the name stack names no layer, the operation belongs to the layer of the enclosing operation.
        inner = int(marks[-1]) if (marks := _LAYER.findall(scope)) else layer
        if primitive == "optimization_barrier" and (said := _PRODUCTS.search(scope)):
            products, weight_bits, activation_bits = map(int, said.groups())
            macs = products * _shaped(eqn.outvars[0]).size
            yield _Operation(inner, (weight_bits, activation_bits), times * macs, True)
        elif primitive in _MACS:
            left, right = map(_shaped, eqn.invars)
            macs = _MACS[primitive](left, right, _shaped(eqn.outvars[0]), eqn.params)
            yield _Operation(inner, (_bits(right), _bits(left)), times * macs, False)
        elif primitive == "cond":
            branches = [list(_operations(branch.jaxpr, inner, times)) for branch in eqn.params["branches"]]
            yield from max(branches, key=lambda operations: sum(operation.macs for operation in operations))
        else:
            for inside in _programs_in(eqn.params):
                yield from _operations(inside, inner, times * _repeats(primitive, eqn.params))


def _dot_macs(left, right, out, params):
    (contracted, _), _ = params["dimension_numbers"]
    return out.size * math.prod(left.shape[axis] for axis in contracted)


def _conv_macs(left, right, out, params):
    out_features = right.shape[params["dimension_numbers"].rhs_spec[0]]
    if math.prod(params["lhs_dilation"]) == 1:
        return out.size * (right.size // out_features)
    # This is a transposed convolution. Products with the zeros between the inputs do not count.
    in_features = left.shape[params["dimension_numbers"].lhs_spec[1]]
    return left.size * (right.size // in_features)


_MACS = {"dot_general": _dot_macs, "conv_general_dilated": _conv_macs}


def _shaped(variable: Any) -> jax.core.ShapedArray:
    return variable.aval


def _bits(array) -> int:
    return 8 * array.dtype.itemsize


def _repeats(primitive, params) -> int:
    if primitive == "scan":
        return params["length"]
    # Within `shard_map` each shape is the shape of one device's shard, and every device of the mesh runs the program.
    return params["mesh"].size if primitive == "shard_map" else 1


def _programs_in(params) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
