"""Marks the parameters that weight decay changes, and those that a run freezes."""

import fnmatch
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax.errors import UserError, unknown

DECAY_GROUPS = ("all", "conv_and_linear")


def decay_mask(params: Mapping[str, Any], groups: str = "all") -> dict[str, Any]:
    """Marks every parameter that weight decay changes. The result is a mask for `optax.add_decayed_weights`.

    - `"all"`: every parameter, as in the CIFAR-10 recipe.
    - `"conv_and_linear"`: kernel, alpha and bias of convolutions and linear layers, as in the ImageNet recipe. This
      leaves out batch norm, the projection shortcuts (submodules `downsample_*`), the shifts and PReLU slopes of the
      ReActNet-style models, the shifts of RSign and AdaBin, and the spread of AdaBin. A parameter of your
      own binarizer decays, unless its name is `shift` or `spread`.

    Args:
      params: nested dicts, as `model.init` returns them; leaves of any type.
      groups: one of `DECAY_GROUPS`.

    Returns:
      Booleans in the structure of `params`; True where weight decay applies.

    Raises:
      UserError: `groups` is unknown.
    """
    if groups not in DECAY_GROUPS:
        raise unknown("weight decay groups", groups, DECAY_GROUPS)
    flat = flatten_dict(params)

    def decays(path):
        in_shortcut = any(module.startswith("downsample_") for module in path[:-1])
        # Only convolutions and linear layers have a kernel. The activation binarizers keep parameters beside it.
        of_layer = (*path[:-1], "kernel") in flat and path[-1] not in ("shift", "spread")
        return groups == "all" or (of_layer and not in_shortcut)

    return unflatten_dict({path: decays(path) for path in flat})


def frozen_mask(params: Mapping[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    """Marks the parameters that `patterns` name.

    Args:
      params: nested dicts, as `model.init` returns them; leaves of any type.
      patterns: paths in `params`, such as `layer1_0/conv1/kernel`, with `*` for any text. The path of a module names
        all parameters in it, so `layer1*` names those of all blocks of the first stage.

    Returns:
      Booleans in the structure of `params`; True where a pattern names the parameter.

    Raises:
      UserError: a pattern names nothing, or the patterns name all parameters.
    """
    flat = flatten_dict(params)
    above = {path: ["/".join(path[:depth]) for depth in range(1, len(path) + 1)] for path in flat}
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for names in above.values() for name in names):
            raise unknown("config.freeze", pattern, dict.fromkeys(path[0] for path in flat))
    mask = {path: any(fnmatch.fnmatchcase(n, p) for n in names for p in patterns) for path, names in above.items()}
    if all(mask.values()):
        raise UserError(f"config.freeze is {','.join(patterns)!r}, which names all parameters; leave some to train")
    return unflatten_dict(mask)


def with_frozen(update: optax.GradientTransformation, patterns: Sequence[str]) -> optax.GradientTransformation:
    """Returns `update`, changed so that the parameters named by `patterns` keep their values.

    Weight decay and Bop do not change these parameters either.

    Args:
      update: the optimizer of all parameters.
      patterns: as for `frozen_mask`. The optimizer's `init` raises the UserError of `frozen_mask`.
    """
    if not patterns:
        return update
    return optax.chain(update, optax.masked(optax.set_to_zero(), functools.partial(frozen_mask, patterns=patterns)))
