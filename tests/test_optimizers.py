"""Checks which parameters are decayed and frozen, and compares Bop with a plain loop of the paper's Algorithm 1."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from recu_jax import BinaryConv, BinaryDense, UserError, binary_layers, create_model, layers
from recu_jax.binarizers import activations
from recu_jax.optimizers import bop, decay_mask, frozen_mask, with_bop, with_frozen
from recu_jax.training.recipe import make_recipe
from tests.support.small_runs import dataset, digits


def decayed(name, groups):
    model = create_model(name, 10, stage_sizes=(1, 1), widths=(4, 8))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    mask = decay_mask(params, groups)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    flat = {"/".join(path): value for path, value in flatten_dict(mask).items()}
    return {path for path, value in flat.items() if value}, set(flat)


@pytest.mark.parametrize("name", ["imagenet_resnet18", "react_resnet18", "resnet50"])
def test_all(name):
    decays, names = decayed(name, "all")
    assert decays == names and len(names) > 20


def test_conv_and_linear_of_an_imagenet_model():
    decays, names = decayed("imagenet_resnet18", "conv_and_linear")
    blocks = ("layer1_0", "layer2_0")
    assert decays == {
        "conv1/kernel", "fc/kernel", "fc/bias",
        *(f"{b}/{c}/{leaf}" for b in blocks for c in ("conv1", "conv2") for leaf in ("kernel", "alpha")),
    }  # fmt: skip
    assert names - decays == {
        *(f"{norm}/{leaf}" for norm in ("bn1", "bn2") for leaf in ("scale", "bias")),
        *(f"{b}/{norm}/{leaf}" for b in blocks for norm in ("bn1", "bn2") for leaf in ("scale", "bias")),
        "layer2_0/downsample_0/kernel", "layer2_0/downsample_1/scale", "layer2_0/downsample_1/bias",
    }  # fmt: skip


def test_conv_and_linear_of_a_react_model():
    decays, names = decayed("react_resnet18", "conv_and_linear")
    assert decays == {
        "conv/kernel", "fc/kernel", "fc/bias",
        *(f"{block}/conv/{leaf}" for block in ("layer1_0", "layer2_0") for leaf in ("kernel", "alpha")),
    }  # fmt: skip
    assert {"layer1_0/move0/bias", "layer1_0/nonlinear/slope", "layer2_0/downsample_1/kernel"} <= names - decays


def test_unknown_groups():
    with pytest.raises(UserError, match="did you mean 'conv_and_linear'"):
        decay_mask({}, "conv_linear")


def algorithm_1(w, gradients, threshold, gamma):
    """Returns a list of the weights after each step. Computes one weight at a time."""
    w, m, history = w.copy(), np.zeros_like(w), []
    for step, g in enumerate(gradients):
        rate = gamma(step) if callable(gamma) else np.float32(gamma)
        for i in range(len(w)):
            m[i] = (1 - rate) * m[i] + rate * g[i]
            if abs(m[i]) > threshold and np.sign(m[i]) == np.sign(w[i]):
                w[i] = -w[i]
        history.append(w.copy())
    return history


@pytest.mark.parametrize("magnitude", [1.0, 0.3])
@pytest.mark.parametrize(
    "gamma", [1e-2, lambda step: jnp.float32(0.5) ** (1 + step // 20)], ids=["constant", "schedule"]
)
def test_the_papers_algorithm(gamma, magnitude):
    r = np.random.default_rng(0)
    w = (magnitude * r.choice([-1, 1], 50)).astype(np.float32)
    # Some gradients have a mean above their noise, some do not, and some are exactly 0.
    gradients = (r.normal(size=(120, 50)) + r.normal(size=50)).astype(np.float32) * (np.arange(50) < 40)
    expected = algorithm_1(w, gradients, 0.02, gamma)
    optimizer = bop(threshold=0.02, gamma=gamma)
    params = {"kernel": jnp.asarray(w)}
    state, flips = optimizer.init(params), 0
    update = jax.jit(optimizer.update)
    for g, after in zip(gradients, expected, strict=True):
        updates, state = update({"kernel": jnp.asarray(g)}, state, params)
        flips += int((updates["kernel"] != 0).sum())
        params = optax.apply_updates(params, updates)
        np.testing.assert_array_equal(params["kernel"], after)
    assert 20 < flips < 2000 and (params["kernel"][40:] == w[40:]).all()
    assert int(state.count) == 120


def test_a_threshold_holds_signs_and_update_needs_parameters():
    w, g = jnp.array([1.0, -1.0, 1.0, 0.0]), jnp.array([0.4, -0.6, -0.6, 0.6])
    optimizer = bop(threshold=0.5, gamma=1.0)
    updates, _ = optimizer.update(g, optimizer.init(w), w)
    np.testing.assert_array_equal(w + updates, [1, 1, 1, 0])
    with pytest.raises(ValueError, match=r"call update\(gradients, state, params\)"):
        optimizer.update(g, optimizer.init(w))


def test_bop_starts_with_the_papers_constants():
    """The average of gradient g is 1e-4 g after a step, and 1e-8 is the threshold. So weights flip where g > 1e-4."""
    params, gradients = {"k": jnp.ones(3)}, {"k": jnp.array([2e-4, 0.5e-4, -2e-4])}
    for optimizer in (bop(), with_bop(optax.sgd(0.1), {("k",)})):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        np.testing.assert_array_equal(updates["k"], [-2, 0, 0])


def test_kernels_of_binary_layers_alone_are_bops():
    model = create_model("react_resnet18", 10, stage_sizes=(1, 1), widths=(4, 8))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    kernels = {(*layer.path.split("/"), "kernel") for layer in binary_layers(model, image)}
    assert kernels == {("layer1_0", "conv", "kernel"), ("layer2_0", "conv", "kernel")}
    assert binary_layers(model.clone(conv=layers.Conv), image) == []

    r = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    params, gradients = (jax.tree.map(lambda s: r.normal(size=s.shape).astype(np.float32), shapes) for _ in range(2))

    @jax.jit
    def both(gradients, params):
        optimizer, adam = with_bop(optax.adam(0.1), kernels, threshold=0.0, gamma=1.0), optax.adam(0.1)
        return [o.update(gradients, o.init(params), params)[0] for o in (optimizer, adam)]

    updates, plain = both(gradients, params)
    flat = [flatten_dict(tree) for tree in (params, gradients, updates, plain)]
    for path in flat[0]:
        w, g, update, adams = (np.asarray(tree[path]) for tree in flat)
        expected = np.where(np.sign(g) == np.sign(w), -2 * w, 0) if path in kernels else adams
        np.testing.assert_array_equal(update, expected, err_msg=str(path))


def test_latent_weights_have_an_optimizer_a_rate_and_a_decay_of_their_own():
    c = digits(
        learning_rate=0.2, warmup_epochs=0, weight_decay=0.5, latent_optimizer="adam", latent_learning_rate=0.01,
        latent_weight_decay=0.25,
    )  # fmt: skip
    recipe = make_recipe(c, dataset(8, 1), steps_per_epoch=2)
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    r = np.random.default_rng(0)
    params, gradients = (jax.tree.map(lambda s: r.normal(size=s.shape), shapes) for _ in range(2))
    updates, _ = jax.jit(lambda g, p: recipe.optimizer.update(g, recipe.optimizer.init(p), p))(gradients, params)
    flat = [flatten_dict(tree) for tree in (params, gradients, updates)]
    kinds = set()
    for path in flat[0]:
        w, g, update = (np.asarray(tree[path]) for tree in flat)
        latent = path[-1] == "kernel" and path[0].startswith("layer") and "downsample" not in path[1]
        # Adam's first update is minus the rate times the gradient's sign, if the gradient is much larger than epsilon.
        decayed = g + 0.25 * w
        expected = -0.01 * decayed / (np.abs(decayed) + 1e-8) if latent else -0.2 * (g + 0.5 * w)
        np.testing.assert_allclose(update, expected, rtol=1e-3, atol=1e-4, err_msg=str(path))
        kinds.add(latent)
    assert kinds == {True, False}


class Own(nn.Module):
    """A model without an argument dtype. Its one layer is of class `layer`: binary by default."""

    num_classes: int
    layer: type[nn.Module] = BinaryDense

    @nn.compact
    def __call__(self, x, train=False):
        return self.layer(self.num_classes)(x.reshape(len(x), -1))


def real(num_classes):
    return Own(num_classes, nn.Dense)


def test_a_model_of_ones_own_needs_latent_weights_but_no_dtype():
    c = digits(latent_learning_rate=0.1, learning_rate=0.2, warmup_epochs=0, model="tests.test_optimizers:Own")
    recipe = make_recipe(c, dataset(8, 1), steps_per_epoch=2)
    params = {"BinaryDense_0": {"kernel": np.zeros((64, 10)), "bias": np.zeros(10), "alpha": np.zeros(10)}}
    gradients = jax.tree.map(np.ones_like, params)
    updates, _ = recipe.optimizer.update(gradients, recipe.optimizer.init(params), params)
    assert {name: float(update.min()) for name, update in updates["BinaryDense_0"].items()} == pytest.approx(
        {"kernel": -0.1, "bias": -0.2, "alpha": -0.2}
    )
    c = digits(latent_learning_rate=0.1, model="tests.test_optimizers:real")
    with pytest.raises(UserError, match=r"latent_learning_rate is 0.1, and config.model .* has no binary layer"):
        make_recipe(c, dataset(8, 1), steps_per_epoch=2)


def test_a_rate_alone_leaves_the_optimizer_as_it_is():
    c = digits(learning_rate=0.2, warmup_epochs=0, weight_decay=0.5, latent_learning_rate=0.1)
    recipe = make_recipe(c, dataset(8, 1), steps_per_epoch=2)
    params = jax.tree.map(
        lambda s: np.ones(s.shape, np.float32),
        jax.eval_shape(recipe.model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"],
    )
    updates, _ = jax.jit(lambda p: recipe.optimizer.update(p, recipe.optimizer.init(p), p))(params)
    np.testing.assert_allclose(updates["layer1_0"]["conv1"]["kernel"], -0.1 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(updates["linear"]["kernel"], -0.2 * 1.5, rtol=1e-6)


@pytest.mark.parametrize("binarizer", [activations.RSign(), activations.AdaBin()])
def test_decay_reaches_everything_unless_told_otherwise_and_never_a_shift(binarizer):
    model = create_model("digits_resnet8", 10, conv=functools.partial(BinaryConv, input_binarizer=binarizer))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    by_default = flatten_dict(decay_mask(params))
    assert all(by_default.values()) and any(path[-1] == "shift" for path in by_default)
    on_layers = flatten_dict(decay_mask(params, "conv_and_linear"))
    assert not any(value for path, value in on_layers.items() if path[-1] in binarizer.parameters)
    assert {path[-1] for path, value in on_layers.items() if value} == {"kernel", "alpha", "bias"}


@pytest.mark.slow
def test_bop_leaves_kernels_of_real_weights_to_the_other_optimizer():
    """Stage 1 of two-stage training: the weights are real, and only the activations are 1 bit."""
    c = digits(optimizer="bop", weight_binarizer="clipped_sign", bop_gamma=1.0, weight_decay=0.0)
    c.conv = "binary_activations"  # `check_config` refuses it, but a user's own model may have such layers
    recipe = make_recipe(c, dataset(8, 1), steps_per_epoch=2)
    params = jax.jit(recipe.model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    gradients = jax.tree.map(lambda p: p + 0.25, params)
    updates, _ = recipe.optimizer.update(gradients, recipe.optimizer.init(params), params)
    kernel, update = (tree["layer1_0"]["conv1"]["kernel"] for tree in (params, updates))
    assert not ((update == 0) | (update == -2 * kernel)).any()


def test_the_state_of_bop_keeps_its_dtypes():
    """In a `lax.scan` over steps the state must keep its dtypes, also for bfloat16 weights and a float32 rate."""
    params = {"kernel": jnp.ones((4,), jnp.bfloat16)}
    optimizer = bop(gamma=lambda step: jnp.float32(0.5))
    state = optimizer.init(params)
    updates, after = optimizer.update({"kernel": jnp.ones((4,), jnp.float32)}, state, params)
    assert updates["kernel"].dtype == jnp.bfloat16
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)


PARAMS = {
    "conv1": {"kernel": np.full((2, 2), 0.5), "bias": np.ones(2)},
    "layer1_0": {"conv1": {"kernel": np.full((2, 2), 0.5)}, "bn1": {"scale": np.ones(2)}},
    "linear": {"kernel": np.full((2, 2), 0.5)},
}  # fmt: skip


@pytest.mark.parametrize(
    "patterns, frozen",
    [
        (("conv1",), {"conv1/kernel", "conv1/bias"}),  # the module with exactly this path
        (("layer1*",), {"layer1_0/conv1/kernel", "layer1_0/bn1/scale"}),
        (("*/kernel",), {"conv1/kernel", "layer1_0/conv1/kernel", "linear/kernel"}),
        (("layer1_0/bn1", "linear/kernel"), {"layer1_0/bn1/scale", "linear/kernel"}),
    ],
)
def test_patterns_name_parameters_or_their_modules(patterns, frozen):
    mask = flatten_dict(frozen_mask(PARAMS, patterns), sep="/")
    assert {path for path, is_frozen in mask.items() if is_frozen} == frozen and len(mask) == 5


def test_patterns_that_name_nothing_or_all_are_refused():
    with pytest.raises(UserError, match=r"config.freeze is 'layer2', which does not exist; did you mean 'layer1_0'"):
        frozen_mask(PARAMS, ("conv1", "layer2"))
    with pytest.raises(UserError, match="which names all parameters; leave some to train"):
        with_frozen(optax.sgd(1.0), ("*",)).init(PARAMS)


@pytest.mark.parametrize(
    "update",
    [
        optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)),
        optax.adam(0.1),
        with_bop(optax.adam(0.1), {("layer1_0", "conv1", "kernel"), ("linear", "kernel")}, 0.0, 0.5),
    ],
    ids=["sgd", "adam", "bop"],
)
def test_frozen_parameters_stay_and_others_move_as_without(update):
    frozen = with_frozen(update, ("layer1*", "conv1/bias"))
    results = []
    for optimizer in (update, frozen):
        params, state = PARAMS, optimizer.init(PARAMS)
        for step in range(3):
            gradients = jax.tree.map(lambda a: a * (step + 1), PARAMS)
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        results.append(flatten_dict(params, sep="/"))
    for path, value in flatten_dict(PARAMS, sep="/").items():
        stays = path.startswith("layer1") or path == "conv1/bias"
        np.testing.assert_array_equal(results[1][path], value if stays else results[0][path])
        assert not np.array_equal(results[0][path], value)
    assert with_frozen(update, ()) is update
