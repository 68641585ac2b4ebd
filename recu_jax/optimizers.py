"""Which parameters weight decay reaches (SPEC.md section 7)."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax.errors import unknown

DECAY_GROUPS = ("all", "conv_and_linear")


def decay_mask(params: Mapping[str, Any], groups: str = "all") -> dict[str, Any]:
    """True for every parameter that weight decay reaches; a mask for `optax.add_decayed_weights`.

    - `"all"`: every parameter, the recipe of CIFAR-10.
    - `"conv_and_linear"`: kernel, alpha and bias of convolutions and linear layers, the recipe of ImageNet. Left out
      are batch norm, the projection shortcuts (submodules `downsample_*`), and the shifts and PReLU slopes of the
      ReActNet-style models and of RSign.

    Args:
      params: nested dicts, as `model.init` gives them; leaves of any kind.
      groups: one of `DECAY_GROUPS`.

    Returns:
      Booleans in the structure of `params`.

    Raises:
      UserError: no such groups.
    """
    if groups not in DECAY_GROUPS:
        raise unknown("weight decay groups", groups, DECAY_GROUPS)
    flat = flatten_dict(params)

    def decays(path):
        # Only convolutions and linear layers have a kernel.
        in_shortcut = any(module.startswith("downsample_") for module in path[:-1])
        of_layer = (*path[:-1], "kernel") in flat and path[-1] != "shift"
        return groups == "all" or (of_layer and not in_shortcut)

    return unflatten_dict({path: decays(path) for path in flat})
