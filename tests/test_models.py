"""Tests what the golden values do not: initialization, dtypes, full-precision twins and fused units."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from recu_jax import UserError, create_model, pack
from recu_jax.binarizers import activations
from recu_jax.layers import BinaryConv, Conv
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.ops import native

NARROW = {"stage_sizes": (1, 1, 1, 1), "widths": (8, 16, 24, 32)}


@functools.cache
def initial(name):
    model = create_model(name, 10, stage_sizes=(1, 2), widths=(64, 128))
    quick = {"xla_backend_optimization_level": 0}
    variables = jax.jit(model.init, compiler_options=quick)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return {"/".join(path[1:]): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}


@pytest.mark.slow
def test_initial_scales_and_slopes():
    leaves = initial("imagenet_resnet18")
    scales = {name: value for name, value in leaves.items() if name.endswith("scale")}
    assert len(scales) == 9 and "layer2_0/downsample_1/scale" in scales
    for name, value in scales.items():
        np.testing.assert_array_equal(value, np.float32(1.0 if name == "bn2/scale" else 1e-8), err_msg=name)

    leaves = initial("react_resnet18")
    for name, value in leaves.items():
        if name.endswith(("scale", "slope", "bias")) and not name.startswith("fc"):
            expected = {"scale": 1.0, "slope": 0.25, "bias": 0.0}[name.rsplit("/", 1)[-1]]
            np.testing.assert_array_equal(value, np.float32(expected), err_msg=name)


@pytest.mark.parametrize(
    "name,kernel,fan",
    [
        ("imagenet_resnet18", "conv1/kernel", 49 * 3),
        ("imagenet_resnet18", "layer2_0/conv1/kernel", 9 * 64),
        ("imagenet_resnet18", "layer2_0/downsample_0/kernel", 64),
        ("react_resnet18", "conv/kernel", 49 * 3),
        ("react_resnet18", "layer2_0/downsample_1/kernel", 64),
        # torchvision's initialization uses the fan-out, not the fan-in.
        ("resnet18", "conv1/kernel", 49 * 64),
        ("resnet18", "layer2_0/conv1/kernel", 9 * 128),
        ("resnet18", "layer2_0/downsample_0/kernel", 128),
    ],
)
def test_initial_convolutions(name, kernel, fan):
    weights = initial(name)[kernel]
    # The relative standard error of the standard deviation of n numbers is 1 / sqrt(2 n). Four of these are allowed.
    np.testing.assert_allclose(weights.std(), np.sqrt(2 / fan), rtol=4 / np.sqrt(2 * weights.size))


@pytest.mark.parametrize("name", ["imagenet_resnet18", "react_resnet18", "resnet18"])
def test_initial_linear_layer_is_uniform(name):
    linear = initial(name)["fc/kernel"]
    bound = 128**-0.5
    assert np.abs(linear).max() < bound
    np.testing.assert_allclose(linear.std(), bound / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("name", ["imagenet_resnet18", "react_resnet18", "resnet18"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_types_and_shapes(name, dtype):
    model = create_model(name, 7, dtype=dtype, **NARROW)
    x = jnp.zeros((2, 64, 96, 3), dtype)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    apply = functools.partial(model.apply, tau=0.9, train=True, mutable=["batch_stats"])
    logits, changed = jax.eval_shape(apply, variables, x)
    assert logits.shape == (2, 7) and logits.dtype == dtype
    assert jax.tree.structure(changed["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_vgg_small", "imagenet_resnet18", "react_resnet18"])
def test_training_without_tau_is_an_error(name):
    model, x = create_model(name), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    with pytest.raises(UserError, match=r"conv\S* trains without tau"):
        jax.eval_shape(functools.partial(model.apply, train=True, mutable=["batch_stats"]), variables, x)
    without_clamp = functools.partial(model.apply, tau=None, train=True, mutable=["batch_stats"])
    assert jax.eval_shape(without_clamp, variables, x)[0].shape == (1, 10)


@pytest.mark.parametrize("name", ["imagenet_resnet34", "react_resnet34"])
def test_a_twin_differs_by_alpha_alone(name):
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)

    def paths(conv):
        return set(flatten_dict(jax.eval_shape(create_model(name, conv=conv).init, jax.random.key(0), x)))

    binary, real = paths(BinaryConv), paths(Conv)
    assert real < binary and {path[-1] for path in binary - real} == {"alpha"}


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), "float64")


@pytest.mark.usefixtures("x64", "platform_forms")
@pytest.mark.parametrize("axis_name", [None, "devices"])
def test_batch_norm_equals_flax(axis_name):
    x, dy = normal((4, 6, 5, 5, 3)) * 2 + 1, normal((4, 6, 5, 5, 3), 1)
    ours = BatchNorm(param_dtype=jnp.float64, axis_name=axis_name)
    flax = nn.BatchNorm(momentum=0.9, epsilon=1e-5, param_dtype=jnp.float64, axis_name=axis_name)
    variables = ours.init(jax.random.key(0), x[0], use_running_average=False)
    variables = jax.tree.map(lambda v: v + 0.1 * normal(v.shape, 2), variables)

    def run(module, x, dy):
        def f(params, x):
            v = {"params": params, "batch_stats": variables["batch_stats"]}
            return module.apply(v, x, use_running_average=False, mutable=["batch_stats"])

        y, pull, stats = jax.vjp(f, variables["params"], x, has_aux=True)
        return y, pull(dy), stats

    results = [jax.pmap(functools.partial(run, m), axis_name="devices")(x, dy) for m in (ours, flax)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), *results)
    evaluated = [m.apply(variables, x[0], use_running_average=True) for m in (ours, flax)]
    np.testing.assert_allclose(*evaluated, rtol=1e-12)


FUSIBLE = [
    ("cifar_resnet8", {"widths": (8, 16, 24)}, 12),
    ("cifar_resnet8", {"widths": (8, 16, 24), "nonlinearity": "rprelu"}, 12),
    pytest.param("imagenet_resnet18", {"widths": (8, 16), "stage_sizes": (1, 1), "nonlinearity": "identity"}, 32),
    pytest.param("cifar_resnet18", {"widths": (8, 16), "stage_sizes": (1, 1)}, 8, marks=pytest.mark.slow),
    pytest.param("cifar_vgg_small", {"widths": (8, 8, 16, 16, 24, 24)}, 16, marks=pytest.mark.slow),
    pytest.param("imagenet_resnet18", {"widths": (8, 16), "stage_sizes": (1, 1)}, 32, marks=pytest.mark.slow),
]


def trained(name, fields, side, **changes):
    """Returns loss, changed statistics and gradients of a training step, and the text of its program."""
    model = create_model(name, 10, **fields, **changes)
    r = np.random.default_rng(0)
    x, weights = r.normal(size=(3, side, side, 3)).astype("f"), r.normal(size=(3, 10)).astype("f")
    variables = create_model(name, 10, **fields).init(jax.random.key(0), x)
    # Batch norm scales of 1e-8, with which ImageNet networks start, would hide the convolutions behind the shortcuts.
    variables = jax.tree.map(lambda leaf: jnp.where(leaf == np.float32(1e-8), 0.5, leaf), variables)

    def loss(params):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, changed = model.apply(given, x, tau=0.9, train=True, mutable=["batch_stats"])
        return (logits * weights).sum(), changed

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step(variables["params"]), step.lower(variables["params"]).as_text()


@pytest.mark.slow
@pytest.mark.skipif(not native.instruction_sets(), reason="no compiled kernels")
@pytest.mark.parametrize("name,fields,side", FUSIBLE)
def test_fused_units_train_as_their_parts(name, fields, side):
    (got, text), (expected, plain) = trained(name, fields, side, fused=True), trained(name, fields, side)
    assert "recu_unit_gradients" in text and "recu_unit" not in plain
    got, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, expected))
    assert got.keys() == expected.keys()
    # Without hardtanh, batch norm also undoes a shift, and the gradient of the shift is nearly 0.
    largest = max(np.linalg.norm(value) / np.sqrt(value.size) for value in expected.values())
    floor = 1e-5 * largest if "nonlinearity" in fields else 0
    for path, value in expected.items():
        # Batch norm undoes a scale. So the gradient of alpha is nearly 0: a sum of terms that cancel, each as large as
        # the kernel's gradient. Errors are compared with the kernel's gradient.
        size = expected.get((*path[:-1], jax.tree_util.DictKey("kernel")), value)
        # tests/ops/test_unit.py checks that units are exact. Here rounding may flip a sign near 0, which changes all
        # later values by about a percent.
        difference = np.linalg.norm(got[path] - value) / np.sqrt(value.size)
        assert difference < 0.05 * np.linalg.norm(size) / np.sqrt(size.size) + floor, path


@pytest.mark.skipif(not native.instruction_sets(), reason="no compiled kernels")
@pytest.mark.parametrize("name,fields,side", FUSIBLE)
def test_fused_units_evaluate_as_their_parts(name, fields, side):
    """Tests plain and packed variables.

    The running statistics are those after a training step. With the initial ones, batch norm would change little.
    """
    (_, batch_stats), _ = trained(name, fields, side)[0]
    x = np.random.default_rng(1).normal(size=(3, side, side, 3)).astype("f")
    fused, plain = (create_model(name, 10, **fields, fused=fused) for fused in (True, False))
    variables = plain.init(jax.random.key(0), x) | batch_stats
    variables = jax.tree.map(lambda leaf: jnp.where(leaf == np.float32(1e-8), 0.5, leaf), variables)
    evaluate = jax.jit(lambda variables, x: fused.apply(variables, x))
    assert "recu_unit_evaluate" in evaluate.lower(variables, x).as_text()
    expected = jax.jit(lambda variables, x: plain.apply(variables, x))(variables, x)
    np.testing.assert_allclose(evaluate(variables, x), expected, atol=1e-6 * np.abs(expected).max())
    packed = pack(plain, variables, x)
    np.testing.assert_array_equal(evaluate(packed, x), evaluate(variables, x))


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA of jax 0.10 drops barriers before it fuses")
def test_no_unit_computes_those_before_it_again():
    def operations(blocks):
        model = create_model("cifar_resnet20", 10, stage_sizes=(blocks,), widths=(8,), nonlinearity="rprelu")
        x = jnp.zeros((2, 8, 8, 3))

        def loss(params, stats):
            return model.apply({"params": params, **stats}, x, tau=0.9, train=True, mutable=["batch_stats"])[0].sum()

        stats = jax.eval_shape(model.init, jax.random.key(0), x)
        params = stats.pop("params")
        return jax.jit(jax.grad(loss)).lower(params, stats).compile().as_text().count(" = ")

    one, two, four = operations(1), operations(2), operations(4)
    assert four - two == pytest.approx(2 * (two - one), rel=0.15)  # 3.3 times if XLA fuses units


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": jnp.bfloat16},
        {"conv": Conv},
        {"conv": functools.partial(BinaryConv, input_binarizer=activations.ApproxSign())},
        {"conv": functools.partial(BinaryConv, binary_weights=False, alpha="none")},
        {"widths": (1500, 1500, 1500)},
    ],
    ids=["dtype", "real", "binarizer", "real weights", "sums too large"],
)
def test_what_does_not_fit_is_not_fused(changes):
    name, fields, side = FUSIBLE[0]
    model = create_model(name, 10, **(fields | changes), fused=True)
    x = jnp.zeros((2, side, side, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    step = jax.jit(lambda v: model.apply(v, x, tau=0.9, train=True, mutable=["batch_stats"])[0])
    assert "recu_unit" not in step.lower(variables).as_text()
    evaluate = jax.jit(lambda v: model.apply(v, x))
    assert "recu_unit" not in evaluate.lower(variables).as_text()
