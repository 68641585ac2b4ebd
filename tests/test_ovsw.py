"""Compares OvSW's two rules with a plain loop, and trains own models with them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from recu_jax import BinaryDense, UserError
from recu_jax.binarizers import weights
from recu_jax.optimizers import ovsw
from recu_jax.training.recipe import make_recipe
from tests.support.small_runs import dataset, digits


def ovsw_of_one_step(w, g, before, c, delta, factor):
    """Returns the gradient after OvSW's rules, and the signs and averages to go on with. One channel at a time."""
    now = w - w.mean((0, 1, 2)) >= 0
    c = 0.999 * c + 0.001 * (now != before)
    result = g.copy()
    for channel in range(w.shape[-1]):
        r = max(np.linalg.norm(g[..., channel]), 1e-6) / max(np.linalg.norm(w[..., channel]), 1e-3)
        if r < delta:
            result[..., channel] *= delta / r
    return result + np.where(c < 1e-4, factor * w, 0), now, c


def test_rules_of_ovsw():
    delta, factor = 0.04, 9e-4
    rng = np.random.default_rng(0)
    w = rng.normal(0.2, 0.1, (3, 3, 2, 6))
    w[..., 5] *= 1e-6  # norms below the floors
    centered = functools.partial(jax.tree.map, lambda w: jnp.sign(w - w.mean((0, 1, 2), keepdims=True)))
    optimizer = ovsw(delta, factor, centered)
    state, update = optimizer.init({"k": jnp.asarray(w, "float32")}), jax.jit(optimizer.update)
    before, c, raised, moved = w - w.mean((0, 1, 2)) >= 0, np.zeros_like(w), 0, 0
    for _ in range(120):
        g = rng.normal(size=w.shape) * [1, 0.1, 1e-3, 1e-9, 0.01, 1e-9]
        wanted, before, c = ovsw_of_one_step(w, g, before, c, delta, factor)
        got, state = update({"k": jnp.asarray(g, "float32")}, state, {"k": jnp.asarray(w, "float32")})
        np.testing.assert_allclose(got["k"], wanted, rtol=2e-4, atol=1e-9)
        raised, moved = raised + (np.abs(wanted) > 1.5 * np.abs(g)).sum(), moved + (c >= 1e-4).sum()
        w = w + rng.normal(0, 0.02, w.shape)
    assert raised > 1000 and moved > 1000
    with pytest.raises(ValueError, match=r"call update\(gradients, state, params\)"):
        optimizer.update({"k": w}, state)


def test_a_config_turns_the_rules_of_ovsw_on_for_the_latent_weights():
    c = digits(learning_rate=1.0, warmup_epochs=0, momentum=0.0, weight_decay=0.0, ovsw_delta=0.5, ovsw_lambda=0.25)
    recipe = make_recipe(c, dataset(8, 1), steps_per_epoch=2)
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    r = np.random.default_rng(0)
    params, gradients = (
        jax.tree.map(lambda s, by=by: by * r.normal(size=s.shape).astype("f"), shapes) for by in (1, 1e-3)
    )
    updates, _ = jax.jit(lambda g, p: recipe.optimizer.update(g, recipe.optimizer.init(p), p))(gradients, params)
    flat = [flatten_dict(tree) for tree in (params, gradients, updates)]
    kinds = set()
    for path in flat[0]:
        w, g, update = (np.asarray(tree[path], np.float64) for tree in flat)
        latent = path[-1] == "kernel" and path[0].startswith("layer") and "downsample" not in path[1]
        if latent:
            same = w - w.mean((0, 1, 2)) >= 0
            g = ovsw_of_one_step(w, g, same, np.zeros_like(w), 0.5, 0.25)[0]
        np.testing.assert_allclose(update, -g, rtol=1e-4, atol=1e-6, err_msg=str(path))
        kinds.add(latent)
    assert kinds == {True, False}


class Two(nn.Module):
    """A model of one's own, whose layers have two binarizers. Only ReCU centers the weights."""

    num_classes: int

    @nn.compact
    def __call__(self, x, tau=None, train=False):
        x = BinaryDense(8, kernel_binarizer=weights.ClippedSign(), name="plain")(x.reshape(len(x), -1), train=train)
        return BinaryDense(self.num_classes, name="recu")(x, tau=tau, train=train)


class Stacked(nn.Module):
    """A model of one's own, which stacks the kernels of two layers."""

    num_classes: int

    @nn.compact
    def __call__(self, x, tau=None, train=False):
        layers = nn.vmap(
            BinaryDense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=2
        )
        return layers(self.num_classes)(x.reshape(len(x), -1), tau, train).sum(0)


def test_each_layer_of_an_own_model_counts_the_flips_of_its_own_signs():
    recipe = make_recipe(digits(ovsw_delta=0.1, model="tests.test_ovsw:Two"), dataset(8, 1), steps_per_epoch=2)
    params = recipe.model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    params = jax.tree.map(lambda w: w + 0.05, params)
    signs = [leaf for leaf in jax.tree.leaves(recipe.optimizer.init(params)) if leaf.dtype == bool]
    plain, recu = (np.asarray(params[name]["kernel"]) for name in ("plain", "recu"))
    assert (plain >= 0).sum() != (plain >= plain.mean(0)).sum()
    np.testing.assert_array_equal(signs[0], plain >= 0)
    np.testing.assert_array_equal(signs[1], recu >= recu.mean(0))


def test_stacked_layers_are_refused():
    with pytest.raises(UserError, match=r"stacks layers by nn.scan or nn.vmap, .* leave ovsw_delta"):
        make_recipe(digits(ovsw_delta=0.1, model="tests.test_ovsw:Stacked"), dataset(8, 1), steps_per_epoch=2)
