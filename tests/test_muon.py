"""Compares Muon of latent weights with NumPy, and trains with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recu_jax import UserError
from recu_jax.optimizers import muon
from recu_jax.training.recipe import make_recipe
from tests.support.small_runs import dataset, digits


def orthogonal(g):
    """Brings the singular values of a matrix near 1 by five Newton-Schulz steps of fifth order."""
    x = g / np.linalg.norm(g)
    for _ in range(5):
        s = x @ x.T
        x = 3.4445 * x + (-4.7750 * s + 2.0315 * s @ s) @ x
    return x


def test_a_kernel_turns_and_keeps_its_norm():
    r = np.random.default_rng(0)
    w, beta, rate = r.normal(size=(3, 3, 4, 8)), 0.8, 0.05
    optimizer = muon(lambda step: rate / (1 + step), beta)
    state, update = optimizer.init({"k": jnp.asarray(w, "float32")}), jax.jit(optimizer.update)
    first, average = np.linalg.norm(w), np.zeros((36, 8))
    for step in range(1, 5):
        g = r.normal(size=w.shape) * 1e-3
        got, state = update({"k": jnp.asarray(g, "float32")}, state, {"k": jnp.asarray(w, "float32")})
        g = g.reshape(36, 8)
        average = beta * average + (1 - beta) * g
        # Nesterov's look ahead, each average divided by the sum of its weights.
        ahead = beta * average / (1 - beta ** (step + 1)) + (1 - beta) * g / (1 - beta**step)
        direction = orthogonal(ahead.T).T.reshape(w.shape)
        moved = w - rate / step * first * direction / np.linalg.norm(direction)
        new = moved * first / np.linalg.norm(moved)
        np.testing.assert_allclose(got["k"], new - w, rtol=2e-3, atol=2e-5)
        singular = np.linalg.svd((moved - w).reshape(36, 8), compute_uv=False)
        assert singular.max() < 2.5 * singular.min()  # those of the gradient differ by more
        w = new
    with pytest.raises(ValueError, match=r"call update\(gradients, state, params\)"):
        optimizer.update({"k": w}, state)


@pytest.mark.parametrize("w,g", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_zeros_give_no_nan(w, g):
    optimizer, full = muon(0.1), lambda value: {"k": jnp.full((3, 4), value)}
    updates, _ = optimizer.update(full(g), optimizer.init(full(w)), full(w))
    np.testing.assert_allclose(updates["k"], 0, atol=1e-6)


def test_a_config_gives_the_latent_weights_muon_and_the_rest_sgd():
    fields = {"latent_optimizer": "muon", "latent_learning_rate": 0.03, "warmup_epochs": 0}
    c = digits(learning_rate=0.5, momentum=0.0, weight_decay=0.25, **fields)
    recipe = make_recipe(c, dataset(8, 1), steps_per_epoch=2)
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    r = np.random.default_rng(0)
    params, gradients = (jax.tree.map(lambda s: r.normal(size=s.shape).astype("f"), shapes) for _ in range(2))
    updates, _ = jax.jit(lambda g, p: recipe.optimizer.update(g, recipe.optimizer.init(p), p))(gradients, params)
    for name in ("conv1", "conv2"):
        w, u = params["layer1_0"][name]["kernel"], updates["layer1_0"][name]["kernel"]
        np.testing.assert_allclose(np.linalg.norm(w + u), np.linalg.norm(w), rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(u), 0.03 * np.linalg.norm(w), rtol=2e-2)
    plain = -0.5 * (gradients["conv1"]["kernel"] + 0.25 * params["conv1"]["kernel"])
    np.testing.assert_allclose(updates["conv1"]["kernel"], plain, rtol=1e-5)


def test_layers_in_a_stack_are_refused():
    c = digits(model="tests.test_ovsw:Stacked", latent_optimizer="muon", latent_learning_rate=0.01)
    with pytest.raises(UserError, match=r"OvSW and Muon are of one layer; .* another latent_optimizer"):
        make_recipe(c, dataset(8, 1), steps_per_epoch=2)
