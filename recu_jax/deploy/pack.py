"""Packs the binary weights of any Flax model into bits. The model then evaluates as before, bit for bit.

    packed = pack(model, variables, images)     # Linen; variables for model.apply
    packed = pack(model)                        # NNX; a model

The latent weights are gone: a packed model cannot train. `recu_jax.layers.packed` describes the entries of the packed
layers.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax.binary_layer import BinaryLayer, OneBitWeights, layers_with_weights, nnx_layers
from recu_jax.errors import UserError, one_line
from recu_jax.layers.packed import BITS, SCALE
from recu_jax.ops.bit_kernel import bits_of_kernel


def pack(model: Any, variables: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any) -> Any:
    """Packs the binary kernels of a model into bits, which take 1/32 of the bytes of float32.

    A packed layer has one scale for each output channel in place of alpha. All other variables stay. Outputs in
    evaluation stay the same, bit for bit. On CPUs with the compiled kernels of this library, packed layers count bits.
    Elsewhere, and in programs of `jax.export`, XLA convolves +1 and -1.

    Args:
      model: a Linen module, `pack(model, variables, images)`, or an `nnx.Module`, `pack(model)`.
      variables: variables of the Linen module.
      *args, **kwargs: arguments of a call of the Linen module, as in `recu_jax.binary_layers`; only the shapes of
        arrays matter.

    Returns:
      Linen: variables for `model.apply`. NNX: a copy of the model, in evaluation mode.

    Raises:
      UserError: the model has no binary layer with 1-bit weights, the variables do not fit the model, the variables or
        the NNX model are packed already, a kernel holds NaN, the call of the model fails, or an NNX model is given
        together with other arguments.
    """
    if isinstance(model, nn.Module):
        return _linen(model, {} if variables is None else variables, args, kwargs)
    if variables is not None or args or kwargs:
        raise UserError(f"pack: {type(model).__name__} is no Linen module; an NNX model is packed by pack(model)")
    return _nnx(model)


def holds_packed(variables: Mapping[str, Any]) -> bool:
    """Tells whether variables of a Linen model are packed."""
    return any(path[-1] == BITS for path in flatten_dict(variables.get("params", {})))


def nnx_holds_packed(model: Any) -> bool:
    """Tells whether an NNX model is packed."""
    return any(layer.kernel_bits is not None for _, layer in nnx_layers(model))


def _linen(model, variables, args, kwargs):
    if "params" not in variables:
        raise UserError(
            f"pack: the variables have the entries {sorted(variables)}, and no 'params'; give what init returned, as "
            "in pack(model, variables, images)"
        )
    if holds_packed(variables):
        raise _packed_already("the variables are")
    try:
        found = layers_with_weights(model, variables, *args, **kwargs)
    except UserError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise UserError(
            f"pack: the call of {type(model).__name__} fails, {type(error).__name__}: {one_line(error, 300)}; give the "
            "arguments of a call in evaluation, as in pack(model, variables, images)"
        ) from error
    arrays = {layer.path: packed_arrays(layer, weights) for layer, weights in _checked(model, found)}
    flat: dict[tuple[str, ...], Any] = {}
    for path, leaf in flatten_dict(variables["params"], keep_empty_nodes=True).items():
        of_layer = arrays.get("/".join(path[:-1]), {})
        if path[-1] == "kernel" and of_layer:
            flat |= {(*path[:-1], name): array for name, array in of_layer.items()}
        elif path[-1] != "alpha" or not of_layer:
            flat[path] = leaf
    return {**variables, "params": unflatten_dict(flat)}


def _nnx(model):
    # Imported here, because flax.nnx takes as long to import as Flax itself.
    from flax import nnx

    from recu_jax.nnx import PackedKernel

    if nnx_holds_packed(model):
        raise _packed_already(f"{type(model).__name__} is")
    found = _checked(model, layers_with_weights(model))
    packed = nnx.clone(model)
    layers = {"/".join(map(str, path)): layer for path, layer in nnx_layers(packed)}
    for record, weights in found:
        layer, arrays = layers[record.path], packed_arrays(record, weights)
        layer.kernel, layer.alpha, layer.last_tau, layer.tau, layer.progress = (None,) * 5
        layer.kernel_bits, layer.kernel_scale = PackedKernel(arrays[BITS]), PackedKernel(arrays[SCALE])
    packed.eval()
    return packed


def packed_arrays(layer: BinaryLayer, weights: OneBitWeights) -> dict[str, jax.Array]:
    """Returns the entries of a packed layer, `layers.packed.BITS` and `SCALE`, by name."""
    signs, stacked = np.asarray(weights.signs), len(layer.stacked)
    if np.isnan(signs).any():
        raise UserError(
            f"pack: the kernel of {layer.path!r} holds NaN, which a bit cannot hold; give variables of a training that "
            "did not diverge"
        )
    scale = jnp.ones((*signs.shape[:stacked], signs.shape[-1]), signs.dtype) if weights.alpha is None else weights.alpha

    def placed(array):
        shape = (*array.shape[:stacked], *[1] * (signs.ndim - stacked - 1), array.shape[-1])
        return jnp.moveaxis(jnp.asarray(array).reshape(shape), range(stacked), layer.stacked)

    return {BITS: placed(bits_of_kernel(signs, stacked)), SCALE: placed(scale)}


def _checked(model, found):
    if not found:
        raise UserError(
            f"pack: no binary layer of {type(model).__name__} has 1-bit weights (binary_weights=False), so there is "
            "nothing to pack"
        )
    return found


def _packed_already(what):
    return UserError(f"pack: {what} packed already; use it as it is, or pack what was trained")
