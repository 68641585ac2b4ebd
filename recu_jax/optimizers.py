"""Defines optimizers of 1-bit weights, Bop and OvSW's two rules, and the masks for weight decay and freezing."""

import fnmatch
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, path_aware_map, unflatten_dict

from recu_jax.errors import UserError, unknown
from recu_jax.functional import sign
from recu_jax.ops.conv import per_channel

DECAY_GROUPS = ("all", "conv_and_linear")


def decay_mask(params: Mapping[str, Any], groups: str = "all") -> dict[str, Any]:
    """Marks every parameter that weight decay changes. The result is a mask for `optax.add_decayed_weights`.

    - `"all"`: every parameter, as in the CIFAR-10 recipe.
    - `"conv_and_linear"`: kernel, alpha and bias of convolutions and linear layers, as in the ImageNet recipe. This
      leaves out batch norm, the projection shortcuts (submodules `downsample_*`), the shifts and PReLU slopes of the
      ReActNet-style models, the shifts of RSign and AdaBin, and the spread of AdaBin.

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


class BopState(NamedTuple):
    """State of Bop.

    Attributes:
      count: number of steps, int32 ().
      mean: moving average of the gradients, in the structure of the parameters.
    """

    count: jax.Array  # type: ignore[assignment]
    mean: Any


def bop(threshold: float = 1e-8, gamma: optax.ScalarOrSchedule = 1e-4) -> optax.GradientTransformation:
    """Returns Bop, which flips a weight's sign when the average of its gradient is large and has the weight's sign.

        m = (1 - gamma) m + gamma g
        w = -w  where |m| > threshold and sign(m) = sign(w)

    m is the moving average, 0 at first. g is the gradient with respect to the 1-bit weights. In the paper w is +1 or
    -1. Here w keeps its magnitude and only its sign changes, so a kernel is initialized like latent weights. A weight
    that is exactly 0 stays 0.

    The weight binarizer must pass g on unchanged, as `weights.ClippedSign` does where `|w| <= 1`. It must not center
    the weights before it takes their signs.

    Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network Optimization", NeurIPS 2019,
    arXiv 1906.02107, algorithm 1.

    Args:
      threshold: a weight flips only if |m| is larger; the paper calls it tau.
      gamma: adaptivity rate, a number or a schedule of the step. The paper lowers it during the training, like a
        learning rate.

    Returns:
      A gradient transformation. Its `update` needs the parameters and raises ValueError without them.
    """

    def init(params):
        return BopState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        if params is None:
            raise ValueError("bop flips the signs of the parameters: call update(gradients, state, params)")
        rate = gamma(state.count) if callable(gamma) else gamma
        mean = jax.tree.map(lambda m, g: ((1 - rate) * m + rate * g).astype(m.dtype), state.mean, gradients)

        def flip(m, w):
            return jnp.where((jnp.abs(m) > threshold) & (jnp.sign(m) == jnp.sign(w)), -2 * w, jnp.zeros_like(w))

        return jax.tree.map(flip, mean, params), BopState(state.count + 1, mean)

    return optax.GradientTransformation(init, update)


class OvSWState(NamedTuple):
    """State of `ovsw`, in the structure of the parameters.

    Attributes:
      positive: which signs were +1 at the last step, booleans.
      flips: moving average of the flips of each sign.
    """

    positive: Any
    flips: Any


def _signs(params):
    return jax.tree.map(sign, params)


def ovsw(
    delta: float = 0.04, factor: float = 9e-4, signs: Callable[[Any], Any] = _signs
) -> optax.GradientTransformation:
    """Returns OvSW's two rules, which move latent weights whose signs hardly change. Chain it before an optimizer.

    Adaptive gradient scaling raises the gradients g of an output channel that are small beside its weights w:

        g = g delta / r  where r < delta, r = max(|g|, 1e-6) / max(|w|, 1e-3)

    |g| and |w| are the norms over the channel. Silence-aware decay pulls weights with silent signs towards 0:

        c = 0.999 c + 0.001 [the sign has changed]
        g = g + factor w  where c < 1e-4

    c is 0 at first. Xiang et al., "OvSW: Overcoming Silent Weights for Accurate Binary Neural Networks", ECCV 2024,
    arXiv 2407.05257. The paper uses delta 0.04 and factor 9e-4 on CIFAR-10, and 0.01 and 2e-5 on ImageNet.

    Args:
      delta: least ratio r; 0 leaves the first rule out.
      factor: the paper's lambda; 0 leaves the second rule out.
      signs: function of the parameters. It returns the signs with which the layers compute, in the same structure.

    Returns:
      A gradient transformation of kernels, (..., features). Its `update` needs the parameters and raises ValueError
      without them.
    """

    def positive(params):
        return jax.tree.map(lambda s: s > 0, signs(params))

    def init(params):
        return OvSWState(positive(params), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        if params is None:
            raise ValueError("ovsw compares gradients with the parameters: call update(gradients, state, params)")
        now = positive(params)
        flips = jax.tree.map(
            lambda c, p, q: (0.999 * c + 0.001 * (p != q)).astype(c.dtype), state.flips, state.positive, now
        )

        def rules(g, w, c):
            ratio = jnp.maximum(_norm(g), 1e-6) / jnp.maximum(_norm(w), 1e-3)
            raised = g * per_channel(jnp.where(ratio < delta, delta / ratio, 1), g)
            return jnp.where(c < 1e-4, raised + factor * w, raised).astype(g.dtype)

        return jax.tree.map(rules, gradients, params, flips), OvSWState(now, flips)

    return optax.GradientTransformation(init, update)


def _norm(kernel):
    """Returns the Euclidean norm of each output channel, (features,)."""
    return jnp.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)


def with_bop(
    rest: optax.GradientTransformation,
    kernels: Collection[tuple[str, ...]],
    threshold: float = 1e-8,
    gamma: optax.ScalarOrSchedule = 1e-4,
) -> optax.GradientTransformation:
    """Returns an optimizer that applies Bop to the parameters at `kernels`, and `rest` to all other parameters.

    Args:
      rest, kernels: as in `with_own`.
      threshold, gamma: as in `bop`.
    """
    return with_own(rest, bop(threshold, gamma), kernels, "bop")


def with_own(
    rest: optax.GradientTransformation,
    own: optax.GradientTransformation,
    kernels: Collection[tuple[str, ...]],
    name: str = "latent",
) -> optax.GradientTransformation:
    """Returns an optimizer that applies `own` to the parameters at `kernels`, and `rest` to all other parameters.

    Args:
      rest: optimizer of all other parameters.
      own: optimizer of the parameters at `kernels`.
      kernels: paths in the parameters, such as `("conv1", "kernel")`.
      name: key of `own` in the optimizer's state.
    """

    def labels(params):
        return path_aware_map(lambda path, _: name if path in kernels else "rest", params)

    return optax.multi_transform({name: own, "rest": rest}, labels)
