"""Tests the Linen layers as users of `nn.Conv` and `nn.Dense` use them."""

import copy
import functools
import inspect
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recu_jax
from recu_jax import NOT_GIVEN, BinaryConv, BinaryDense, UserError, with_tau
from recu_jax.binarizers import weights
from recu_jax.functional import sign, standardize
from recu_jax.layers import Conv, Dense
from tests.support.draws import normal


def test_everything_public_is_importable_from_the_package():
    names = """BinaryConv BinaryDense create_model exponential_tau cosine_learning_rate step_learning_rate
        linear_learning_rate standardize laplace_scale laplace_quantile recu sign ste_sign approx_sign conv_of_signs
        dense_of_signs set_xla_flags UserError"""
    for name in names.split():
        assert hasattr(recu_jax, name), name


def test_parameters_are_kernel_and_alpha():
    variables = BinaryConv(16, (3, 3)).init(jax.random.key(0), normal((2, 8, 8, 4)))
    shapes = jax.tree.map(jnp.shape, variables)
    assert shapes == {"params": {"kernel": (3, 3, 4, 16), "alpha": (16,)}}
    alpha = variables["params"]["alpha"]
    assert (0 <= alpha).all() and (alpha < 1).all()
    assert abs(variables["params"]["kernel"].std() - np.sqrt(2 / 36)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("window,x_shape", [((3,), (2, 9, 4)), ((3, 3), (2, 8, 8, 4)), ((2, 3, 2), (2, 5, 5, 5, 4))])
@pytest.mark.parametrize("use_bias", [pytest.param(False, marks=pytest.mark.slow), True])
def test_conv_is_a_float_conv_of_signs(window, x_shape, use_bias):
    layer = BinaryConv(8, window, use_bias=use_bias, bias_init=nn.initializers.ones_init())
    x = normal(x_shape)
    variables = layer.init(jax.random.key(0), x)
    p = variables["params"]
    floating = nn.Conv(8, window, use_bias=False)
    expected = floating.apply({"params": {"kernel": sign(standardize(p["kernel"]))}}, sign(x))
    expected = expected * p["alpha"].reshape((1,) * (expected.ndim - 1) + (-1,)) + use_bias
    np.testing.assert_allclose(layer.apply(variables, x, tau=0.9, train=True), expected, rtol=1e-6)


def test_dense_is_a_product_of_signs():
    layer, x = BinaryDense(8), normal((2, 3, 5))
    variables = layer.init(jax.random.key(0), x)
    p = variables["params"]
    expected = np.sign(x) @ np.sign(standardize(p["kernel"])) * np.asarray(p["alpha"])
    np.testing.assert_allclose(layer.apply(variables, x, tau=0.9, train=True), expected, rtol=1e-6)


@pytest.mark.parametrize("batch", [(), (3, 2)])
def test_any_number_of_batch_dimensions(batch):
    layer, x = BinaryConv(8, (3, 3)), normal((*batch, 6, 6, 4))
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x, tau=0.9, train=True)
    assert y.shape == (*batch, 6, 6, 8)
    single = layer.apply(variables, x.reshape(-1, 6, 6, 4), tau=0.9, train=True)
    np.testing.assert_array_equal(y.reshape(-1, 6, 6, 8), single)


def test_samples_do_not_see_each_other():
    layer, x = BinaryConv(8, (3, 3)), normal((4, 6, 6, 4))
    variables = layer.init(jax.random.key(0), x)

    def pull(x):
        return jax.vjp(lambda x: layer.apply(variables, x, tau=0.9, train=True), x)[1](jnp.ones((len(x), 6, 6, 8)))[0]

    np.testing.assert_allclose(pull(x)[1:2], pull(x[1:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_transformations_compose():
    layer, x = BinaryConv(8, (3, 3)), normal((4, 6, 6, 4))
    variables = layer.init(jax.random.key(0), x)

    def loss(variables, x):
        return (layer.apply(variables, x, tau=0.9, train=True) ** 2).sum()

    expected = jax.grad(loss)(variables, x)
    per_sample = jax.vmap(jax.grad(loss), (None, 0))(variables, x[:, None])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.sum(0), rtol=2e-4, atol=1e-4), expected, per_sample)
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), expected, again)


def test_bfloat16_compute_keeps_latent_weights_float32():
    x = normal((2, 6, 6, 4))
    layer = BinaryConv(8, (3, 3), dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert layer.apply(variables, x).dtype == jnp.bfloat16
    # The kernel has two values, which bfloat16 cannot tell apart. They lie on two sides of the mean, so signs differ.
    kernel = jnp.full((3, 3, 4, 8), 1.0).at[0].add(2.0**-12)
    signs = recu_jax.binarize_weights(kernel)
    ones = jnp.ones((1, 3, 3, 4))
    y = layer.apply({"params": {"kernel": kernel, "alpha": jnp.ones(8)}}, ones)
    np.testing.assert_array_equal(y[0, 1, 1], signs.sum((0, 1, 2)))


def test_mean_scale_is_the_papers_and_evaluation_remembers_tau():
    layer, x = BinaryConv(8, (3, 3), alpha="mean"), normal((2, 6, 6, 4))
    variables = layer.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"kernel"}
    kernel = np.asarray(standardize(variables["params"]["kernel"]))
    bound = -np.abs(kernel).mean() * np.log(2 - 2 * 0.8)
    alpha = np.abs(np.clip(kernel, -bound, bound)).mean((0, 1, 2))
    signs = BinaryConv(8, (3, 3), alpha="none").apply(variables, x)
    # Only a training step whose caller takes `batch_stats` stores its tau.
    assert variables["batch_stats"]["tau"] == 1
    for tau, scale in ((0.8, alpha), (None, np.abs(kernel).mean((0, 1, 2)))):
        y = layer.apply(variables, x, tau=tau, train=True)
        np.testing.assert_allclose(y, signs * scale[None, None, None], rtol=1e-5)
    _, kept = layer.apply(variables, x, tau=0.7, mutable=["batch_stats"])
    assert kept["batch_stats"]["tau"] == 1
    y, changed = layer.apply(variables, x, tau=0.8, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, signs * alpha[None, None, None], rtol=1e-5)
    # Evaluation computes alpha in a program of its own, so alpha's last bit may differ.
    np.testing.assert_allclose(layer.apply({**variables, **changed}, x), y, rtol=1e-6)


def test_parts_can_be_switched_off():
    x, kernel = normal((2, 6, 6, 4)), normal((3, 3, 4, 8)) + 0.5
    params = {"params": {"kernel": kernel, "alpha": jnp.ones(8)}}
    plain = BinaryConv(8, (3, 3), kernel_binarizer=weights.ReCU(standardize=False))
    np.testing.assert_array_equal(
        plain.apply(params, x), nn.Conv(8, (3, 3), use_bias=False).apply({"params": {"kernel": sign(kernel)}}, sign(x))
    )

    def gradient(layer):
        return jax.grad(lambda p: layer.apply(p, x, tau=0.8, train=True)[0, 0, 0].sum())(params)["params"]["kernel"]

    # Without the clamp, all weights that the first output pixel uses have a gradient. With it, only those within the
    # bound have one.
    unclamped = gradient(BinaryConv(8, (3, 3), kernel_binarizer=weights.ReCU(standardize=False, clamp=False)))
    clamped = gradient(plain)
    bound = -np.abs(kernel).mean() * np.log(2 - 2 * 0.8)
    np.testing.assert_array_equal(clamped, np.where(np.abs(kernel) <= bound, unclamped, 0))
    assert (np.asarray(clamped) != np.asarray(unclamped)).any()


@pytest.mark.parametrize(
    "layer,apply_kwargs,message",
    [
        (BinaryConv(8, (3, 3)), {"tau": 0.4}, "tau is 0.4"),
        (BinaryConv(8, (3, 3), alpha="median"), {}, "alpha is 'median'"),
        (BinaryConv(8, (3, 3), feature_group_count=3), {}, "feature_group_count is 3"),
        (BinaryConv(8, (3, 3), padding="CAUSAL"), {}, "padding is 'CAUSAL'"),
        (BinaryDense(8), {"tau": 1.5}, "tau is 1.5"),
    ],
)
def test_mistakes_are_named(layer, apply_kwargs, message):
    with pytest.raises(UserError, match=message):
        layer.init(jax.random.key(0), normal((2, 6, 6, 4)), **apply_kwargs)


def test_full_precision_twins_take_the_same_calls():
    x = normal((2, 6, 6, 4))
    for twin, plain in ((Conv(8, (3, 3)), nn.Conv(8, (3, 3), use_bias=False)), (Dense(8), nn.Dense(8))):
        variables = twin.init(jax.random.key(0), x)
        np.testing.assert_array_equal(twin.apply(variables, x, tau=0.9, train=True), plain.apply(variables, x))


@pytest.mark.usefixtures("x64")
def test_real_weights_under_binary_activations():
    r = np.random.default_rng(5)
    x, kernel, dy = r.normal(size=(2, 6, 6, 3)), r.normal(size=(3, 3, 3, 4)), r.normal(size=(2, 6, 6, 4))
    layer = BinaryConv(4, (3, 3), alpha="none", binary_weights=False, param_dtype=jnp.float64)
    plain = nn.Conv(4, (3, 3), use_bias=False, param_dtype=jnp.float64)
    y, vjp = jax.vjp(lambda k: layer.apply({"params": {"kernel": k}}, x, tau=0.9, train=True), kernel)
    z, plain_vjp = jax.vjp(lambda k: plain.apply({"params": {"kernel": k}}, np.where(x >= 0, 1.0, -1.0)), kernel)
    np.testing.assert_allclose(y, z, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(vjp(dy)[0], plain_vjp(dy)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("center", [True, False])
def test_a_dense_layer_takes_the_signs_of_centered_weights(center):
    x = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (3, 6)), jnp.float32)
    kernel = np.random.default_rng(1).normal(0.5, 1.0, (6, 4)).astype(np.float32)
    layer = BinaryDense(4, alpha="none", kernel_binarizer=weights.ReCU(center=center))
    signs = np.where(kernel - (kernel.mean(0) if center else 0) >= 0, 1, -1)
    assert (signs != np.where(kernel >= 0, 1, -1)).any() == center
    np.testing.assert_array_equal(layer.apply({"params": {"kernel": kernel}}, x), x @ signs)


def test_a_dense_layer_normalizes_each_token_by_itself():
    """Inputs are (batch, tokens, features). Each token is divided by the standard deviation of its own features."""
    r = np.random.default_rng(0)
    # Tokens of very different sizes.
    x = jnp.asarray(r.normal(size=(2, 3, 6)) * np.array([0.1, 1.0, 10.0])[:, None], jnp.float32)
    kernel, dy = (r.normal(size=shape).astype(np.float32) for shape in ((6, 4), (2, 3, 4)))
    layer = BinaryDense(4, alpha="none")
    _, pull = jax.vjp(lambda x: layer.apply({"params": {"kernel": kernel}}, x, tau=1.0, train=True), x)
    signs = np.where(kernel - kernel.mean(0) >= 0, 1, -1)
    expected = np.zeros(x.shape)
    for index in np.ndindex(2, 3):
        z, of_token = jax.vjp(lambda token: token / jnp.sqrt(token.var(ddof=1) + 1e-5), x[index])
        expected[index] = of_token(jnp.float32(dy[index] @ signs.T * np.maximum(0, 2 - 2 * abs(z))))[0]
    np.testing.assert_allclose(pull(dy)[0], expected, rtol=1e-4, atol=1e-5)


class Net(nn.Module):
    """A model that passes tau to its layers, as docs/own_model.md shows."""

    options: dict

    @nn.compact
    def __call__(self, x, tau=NOT_GIVEN, train=False):
        return nn.remat(BinaryDense, static_argnums=(3,))(8, name="dense", **self.options)(x, tau, train)


WITHOUT_TAU = r"dense trains without tau.*give the call tau=.*recu_jax\.with_tau.*recu_jax\.set_tau.*tau=None trains"


def test_training_without_tau_is_an_error():
    """Without the error, ReCU would silently clamp nothing."""
    model, x = Net({}), 2 * normal((3, 4))
    variables = model.init(jax.random.key(0), x, train=True)  # creates variables, trains nothing
    with pytest.raises(UserError, match=WITHOUT_TAU):
        model.apply(variables, x, train=True)
    with pytest.raises(UserError, match=WITHOUT_TAU):
        jax.eval_shape(functools.partial(model.apply, train=True), variables, x)

    def gradient(variables, **options):
        loss = lambda v: (model.apply(v, x, **options) ** 2).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(variables)["params"]["dense"]["kernel"]

    # tau=None asks for no clamp. tau=1 clamps nothing either, so the gradients are equal.
    np.testing.assert_array_equal(gradient(variables, tau=None, train=True), gradient(variables, tau=1.0, train=True))
    assert (gradient(variables, tau=0.85, train=True) != gradient(variables, tau=None, train=True)).any()
    np.testing.assert_array_equal(model.apply(variables, x), model.apply(with_tau(variables, 0.9), x, train=True))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_binarizer": weights.XNORNet()},
        {"kernel_binarizer": weights.ReCU(clamp=False), "alpha": "mean"},
        {"binary_weights": False, "alpha": "none"},
    ],
)
def test_layers_that_clamp_nothing_need_no_tau(options):
    model, x = Net(options), normal((3, 4))
    assert model.apply(model.init(jax.random.key(0), x), x, train=True, mutable=True)[0].shape == (3, 8)


def test_the_default_of_tau_is_readable():
    tau = inspect.signature(BinaryConv.__call__).parameters["tau"]
    assert repr(tau.default) == "NOT_GIVEN" and type(tau.default).__name__ == "NotGiven"
    assert tau.default is recu_jax.NOT_GIVEN is pickle.loads(pickle.dumps(copy.deepcopy(tau.default)))
