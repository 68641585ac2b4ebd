"""Creates models by name: `create_model("cifar_resnet20", num_classes=10)`."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from recu_jax.errors import unknown
from recu_jax.models import cifar_resnet, cifar_vgg, imagenet_resnet, own, react_resnet, resnet
from recu_jax.references import is_reference

MODELS: dict[str, Callable[..., nn.Module]] = {
    **cifar_resnet.MODELS,
    **cifar_vgg.MODELS,
    **imagenet_resnet.MODELS,
    **react_resnet.MODELS,
    **resnet.MODELS,
}
# Models that cannot take a 1-bit `conv`, because every sign after their relu is +1.
FULL_PRECISION = frozenset(resnet.MODELS)
# Models with a fixed nonlinearity: relu, or ReActNet's RPReLU.
OWN_NONLINEARITY = FULL_PRECISION | frozenset(react_resnet.MODELS)

# Names that the models give their last layer, which computes the logits.
LAST_LAYERS = ("linear", "fc")


def num_classes_of(params: Mapping[str, Any]) -> int | None:
    """Returns the number of logits of a network with these parameters; None without a layer of `LAST_LAYERS`."""
    last = (params[name] for name in LAST_LAYERS if name in params)
    return next((layer["kernel"].shape[-1] for layer in last if "kernel" in layer), None)


def create_model(
    name: str, num_classes: int = 10, dtype: Any = None, param_dtype: Any = jnp.float32, **kwargs: Any
) -> nn.Module:
    """Creates a model of `MODELS` (SPEC.md section 6), or a user's own model.

        model = create_model("cifar_resnet20")
        variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        logits, changed = model.apply(variables, x, tau=0.9, train=True, mutable=["batch_stats"])
        logits = model.apply(variables, x)                                      # evaluates

    Args:
      name: a key of `MODELS`, or `"package.module:factory"` for a user's own model. `recu_jax.models.own` says what a
        factory must do.
      num_classes: number of logits.
      dtype: dtype of the computation; None infers it from input and parameters, as in Flax.
      param_dtype: dtype of the parameters. Keep float32 (or float64) even if `dtype` is bfloat16.
      **kwargs: fields of the model, or arguments of the factory, such as `widths`, `norm_axis`, `nonlinearity` or
        `conv`. `conv=recu_jax.layers.Conv` makes all convolutions full precision. The models in `FULL_PRECISION` are
        always full precision.

    Raises:
      UserError: no model has this name, or the factory of a user's own model fails.
    """
    if is_reference(name):
        # A factory need not accept a dtype argument, so the defaults are not passed.
        types = {"dtype": dtype} if dtype is not None else {}
        types |= {"param_dtype": param_dtype} if param_dtype != jnp.float32 else {}
        return own.create(name, num_classes=num_classes, **types, **kwargs)
    if name not in MODELS:
        raise unknown("model", name, sorted(MODELS))
    return MODELS[name](num_classes=num_classes, dtype=dtype, param_dtype=param_dtype, **kwargs)
