"""Which layers of a model are binary, and how each treats its latent weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from recu_jax import functional, layers
from recu_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class BinaryLayer:
    """One `BinaryConv` or `BinaryDense`.

    Attributes:
      name: its path in the variables, as in `layer1_0/conv1`.
      standardize, b, centre, clamp, scale, binary_weights: the attributes of the layer.
    """

    name: str
    standardize: bool = True
    b: float = 2.0
    centre: bool = True
    clamp: bool = True
    scale: str = "learned"
    binary_weights: bool = True

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.name.split("/"))

    def standardized(self, kernel: jax.Array) -> jax.Array:
        """The weights that ReCU clamps, in float32 at least."""
        kernel = kernel.astype(jax.numpy.promote_types(kernel.dtype, "float32"))
        return functional.latent_to_clamped(kernel, standardized=self.standardize, b=self.b, centre=self.centre)


def binary_layers(model: nn.Module, *inputs: Any, **options: Any) -> tuple[BinaryLayer, ...]:
    """The binary layers that a call of `model` goes through, in the order of the calls.

    Args:
      model: any Linen module.
      inputs, options: what it is called with; shapes suffice. Nothing is computed.
    """
    found: dict[str, BinaryLayer] = {}

    def note(call, arguments, keywords, context):
        if is_binary_call(context):
            found.setdefault("/".join(context.module.path), layer_of(context.module))
        return call(*arguments, **keywords)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs, **options), *inputs)
    return tuple(found.values())


def is_binary_call(context: nn.module.InterceptorContext) -> bool:
    """Whether a call that `nn.intercept_methods` met is that of a binary layer."""
    binary = isinstance(context.module, layers.BinaryConv | layers.BinaryDense)
    return binary and context.method_name == "__call__"


def layer_of(module: nn.Module) -> BinaryLayer:
    """What `BinaryLayer` keeps of a bound module."""
    fields = [field.name for field in dataclasses.fields(BinaryLayer)[1:]]
    return BinaryLayer("/".join(module.path), **{name: getattr(module, name) for name in fields})


def layers_in(variables: Mapping[str, Any]) -> tuple[BinaryLayer, ...]:
    """The binary layers that variables show by themselves, taken to have the default attributes.

    These are the places with a `kernel` beside an `alpha`, or with a `tau` among the batch statistics: the scales
    "learned" and "mean". For others, or other attributes, use `binary_layers`.

    Raises:
      UserError: there are none.
    """
    params = flatten_dict(dict(variables["params"]))
    stats = flatten_dict(dict(variables.get("batch_stats", {})))
    found = []
    for path in params:
        if path[-1] == "kernel" and ((*path[:-1], "alpha") in params or (*path[:-1], "tau") in stats):
            scale = "learned" if (*path[:-1], "alpha") in params else "mean"
            found.append(BinaryLayer("/".join(path[:-1]), scale=scale))
    if not found:
        raise UserError(
            "no kernel of these variables has an alpha beside it, as a binary layer's has; give the layers, as in "
            "diagnostics.binary_layers(model, x)"
        )
    return tuple(found)


def leaf(tree: Mapping[str, Any], layer: BinaryLayer, name: str) -> Any:
    """`name` of a layer in a collection of variables."""
    for part in layer.path:
        tree = tree[part]
    return tree[name]


def with_binary_weights(found: Sequence[BinaryLayer]) -> tuple[BinaryLayer, ...]:
    """Those whose weights are signs; the others have signs of activations alone (stage 1 of two)."""
    return tuple(layer for layer in found if layer.binary_weights)
