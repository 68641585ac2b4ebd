"""What a model costs: its size in bits and its multiply-accumulates by precision, of any Flax model, before training.

    cost = model_cost(create_model("imagenet_resnet18", 1000), jax.ShapeDtypeStruct((1, 224, 224, 3), "float32"))
    cost.bytes, cost.compression, cost.macs
    print_table(cost)

| file | |
|---|---|
| `counts` | what is counted, of a layer and of a model |
| `program` | multiply-accumulates in a traced program |
| `calls` | the calls of a model's modules while it is traced |
| `linen`, `nnx` | models of either kind |
| `table` | the table for people |
"""

from typing import Any

import flax.linen as nn

from recu_jax.cost.counts import LayerCost, ModelCost
from recu_jax.cost.linen import linen_cost
from recu_jax.cost.table import print_table

__all__ = ["LayerCost", "ModelCost", "model_cost", "print_table"]


def model_cost(model: Any, *args: Any, **kwargs: Any) -> ModelCost:
    """Counts what `model(*args, **kwargs)` needs; nothing is computed, and no parameters are made.

    Layers of `recu_jax` count as what they are, 1 bit; all others as real numbers, whatever they are: convolutions and
    matrix products are found in the traced program. Sums over other axes and elementwise operations do not count, as in
    the published figures. Give the arguments with which the model evaluates, and a batch of one for the cost of one.

    Args:
      model: a Linen module, or an `nnx.Module`, whose arrays may be abstract (`nnx.eval_shape`); it is not changed.
      *args, **kwargs: what it is called with; `jax.ShapeDtypeStruct` does for an array.
    """
    if isinstance(model, nn.Module):
        return linen_cost(model, args, kwargs)
    # Here, as flax.nnx takes as long to import as Flax does; who has such a model has imported it.
    from recu_jax.cost.nnx import nnx_cost

    return nnx_cost(model, args, kwargs)
