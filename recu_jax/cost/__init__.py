"""Counts the cost of any Flax model without training it: its size in bytes, and its multiply-accumulates by precision.

    cost = model_cost(create_model("imagenet_resnet18", 1000), jax.ShapeDtypeStruct((1, 224, 224, 3), "float32"))
    cost.bytes, cost.compression, cost.macs
    print_table(cost)

| file | contents |
|---|---|
| `counts` | the numbers that are counted, per layer and per model |
| `program` | multiply-accumulates in a traced program |
| `calls` | the calls of a model's modules while it is traced |
| `linen`, `nnx` | costs of Linen and of NNX models |
| `table` | the table of `print_table` |
"""

from typing import Any

import flax.linen as nn

from recu_jax.cost.counts import LayerCost, ModelCost
from recu_jax.cost.linen import linen_cost
from recu_jax.cost.table import print_table

__all__ = ["LayerCost", "ModelCost", "model_cost", "print_table"]


def model_cost(model: Any, *args: Any, **kwargs: Any) -> ModelCost:
    """Counts the memory and the multiply-accumulates of `model(*args, **kwargs)`, without computing anything.

    A 1-bit weight of a `recu_jax` layer counts as 1 bit, and every other number that inference needs as 32 bits.
    Convolutions and matrix products are found in the traced program. Other sums and elementwise operations do not
    count, as in the published figures.

    Args:
      model: a Linen module, or an `nnx.Module`, whose arrays may be abstract (`nnx.eval_shape`). The model is not
        changed.
      *args, **kwargs: arguments of the call in evaluation. `jax.ShapeDtypeStruct` may stand for an array. Use a batch
        of one for the cost of one image.

    Returns:
      The cost of the model and of each layer.

    Raises:
      UserError: a layer of the NNX model is packed.
    """
    if isinstance(model, nn.Module):
        return linen_cost(model, args, kwargs)
    # Imported here, because flax.nnx takes as long to import as Flax itself. A user with an NNX model has imported it
    # already.
    from recu_jax.cost.nnx import nnx_cost

    return nnx_cost(model, args, kwargs)
