"""Checks that the layers can replace Flax's.

They take or refuse every argument of the installed Flax, and they work with JAX's strict promotion of dtypes.
"""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recu_jax
import recu_jax.nnx
from recu_jax import UserError
from recu_jax.binarizers import ACTIVATIONS, WEIGHTS
from recu_jax.functional import sign, standardize
from recu_jax.models import FULL_PRECISION, MODELS

PAIRS = {
    "Conv": (recu_jax.BinaryConv, nn.Conv, {"features": 4, "kernel_size": (3, 3)}),
    "Dense": (recu_jax.BinaryDense, nn.Dense, {"features": 4}),
    "nnx.Conv": (recu_jax.nnx.BinaryConv, nnx.Conv, {"in_features": 4, "out_features": 4, "kernel_size": (3, 3)}),
    "nnx.Linear": (recu_jax.nnx.BinaryDense, nnx.Linear, {"in_features": 4, "out_features": 4}),
}
X = np.random.default_rng(0).standard_normal((2, 6, 6, 4)).astype("float32")


def promote(*arrays, dtype):
    arrays = arrays[0] if isinstance(arrays[0], tuple) else arrays
    return tuple(None if a is None else jnp.asarray(a, dtype or jnp.float16) for a in arrays)


# A value for each argument of Flax. Most differ from the default.
VALUES = {
    "strides": 2, "padding": "VALID", "input_dilation": 2, "kernel_dilation": 2, "feature_group_count": 2,
    "use_bias": True, "dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "precision": "highest",
    "kernel_init": nn.initializers.ones_init(), "bias_init": nn.initializers.ones_init(), "promote_dtype": promote,
    "preferred_element_type": jnp.bfloat16, "kernel_metadata": {"note": 1}, "bias_metadata": {"note": 1},
    "name": "layer", "parent": None, "mask": np.ones((3, 3, 4, 4), "float32"), "conv_general_dilated": max,
    "conv_general_dilated_cls": max, "dot_general": max, "dot_general_cls": max,
}  # fmt: skip
REFUSED = {"mask", "conv_general_dilated", "conv_general_dilated_cls", "dot_general", "dot_general_cls"}


def layer(kind, **arguments):
    """Returns a recu_jax layer as a function of its input."""
    ours, _, needed = PAIRS[kind]
    if kind.startswith("nnx"):
        made = ours(**needed, rngs=nnx.Rngs(0), **arguments)
        made.eval()
        return made
    made = ours(**needed, **arguments)
    return lambda x: made.init_with_output(jax.random.key(0), x)[0]


@pytest.mark.parametrize("kind", PAIRS)
def test_every_argument_of_flax_is_taken_or_refused_with_a_reason(kind):
    ours, theirs, needed = PAIRS[kind]
    default = jax.eval_shape(layer(kind), X)
    names = [n for n in inspect.signature(theirs.__init__).parameters if n not in {"self", "rngs", *needed}]
    for name in names:
        assert name in VALUES, f"{name} is new in Flax's {kind}: take it, or refuse it with a reason"
        if name in REFUSED:
            with pytest.raises(UserError, match=f"^Binary[A-Z][a-z]+: {name} is given; .+; ") as raised:
                layer(kind, **{name: VALUES[name]})
            assert "\n" not in str(raised.value)
            continue
        beside = {"padding": 1} if name == "input_dilation" else {}
        y = jax.eval_shape(layer(kind, **{name: VALUES[name]}, **beside), X)
        changes = {"strides", "padding", "input_dilation", "dtype", "preferred_element_type", "promote_dtype"}
        assert (y != default) == (name in changes), name
    # Arguments that can be given by position have Flax's positions.
    if not kind.startswith("nnx"):
        positions = [n for n in inspect.signature(theirs).parameters if n not in ("parent", "name")]
        assert list(inspect.signature(ours).parameters)[: len(positions)] == positions
    inputs = list(inspect.signature(theirs.__call__).parameters)
    assert set(inputs) <= set(inspect.signature(ours.__call__).parameters)


@pytest.mark.parametrize("padding", [pytest.param("VALID", marks=pytest.mark.slow), ((1, 0), (2, 1)), "CAUSAL"])
def test_input_dilation_is_that_of_flax(padding):
    window, x = ((3,), X[:, 0]) if padding == "CAUSAL" else ((3, 3), X)
    same = {"strides": 1, "padding": padding, "input_dilation": 2, "kernel_dilation": 2}
    ours = recu_jax.BinaryConv(4, window, alpha="none", **same)
    # With input_dilation, Flax takes paddings only as numbers.
    numbers = {"VALID": 0, "CAUSAL": ((4, 0),)}.get(padding, padding)
    theirs = nn.Conv(4, window, use_bias=False, **same | {"padding": numbers})
    variables = ours.init(jax.random.key(0), x)
    signs = {"params": {"kernel": sign(standardize(variables["params"]["kernel"]))}}
    np.testing.assert_array_equal(ours.apply(variables, x), theirs.apply(signs, sign(x)))
    by_nnx = recu_jax.nnx.BinaryConv(4, 4, window, alpha="none", rngs=nnx.Rngs(0), **same)
    by_nnx.kernel[...] = variables["params"]["kernel"]
    by_nnx.eval()
    np.testing.assert_array_equal(by_nnx(x), ours.apply(variables, x))


def test_a_name_of_a_padding_for_a_dilated_input_is_refused():
    with pytest.raises(UserError, match=r"padding is 'SAME' and input_dilation is 2; with .* in numbers"):
        recu_jax.nnx.BinaryConv(4, 4, (3, 3), input_dilation=2, rngs=nnx.Rngs(0))


def test_preferred_element_type_keeps_large_sums_exact():
    x = jnp.ones((1, 577), jnp.bfloat16)
    for made, expected in ((None, 576), (jnp.float32, 577)):
        dense = recu_jax.nnx.BinaryDense(
            577, 2, dtype=jnp.bfloat16, alpha="none", preferred_element_type=made, rngs=nnx.Rngs(0),
            kernel_binarizer=recu_jax.binarizers.weights.ClippedSign(), kernel_init=nn.initializers.ones_init(),
        )  # fmt: skip
        assert dense(x).dtype == (made or jnp.bfloat16) and (dense(x) == expected).all()


def test_a_dtype_of_products_that_is_not_floating_is_refused():
    with pytest.raises(UserError, match="preferred_element_type is int32; it must be a floating dtype"):
        recu_jax.BinaryDense(4, preferred_element_type=jnp.int32)


def test_parameters_in_bfloat16_and_inputs_in_float32_have_gradients():
    conv = recu_jax.BinaryConv(4, (3, 3), param_dtype=jnp.bfloat16)
    variables = conv.init(jax.random.key(0), X)
    gradients = jax.jit(jax.grad(lambda v: conv.apply(v, X, tau=0.9, train=True).sum()))(variables)
    assert all(np.isfinite(g.astype("float32")).all() for g in jax.tree.leaves(gradients))


@pytest.fixture
def strict():
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        *({"kernel_binarizer": WEIGHTS[name]()} for name in WEIGHTS),
        *({"input_binarizer": ACTIVATIONS[name]()} for name in ACTIVATIONS),
        *({"alpha": name} for name in ("mean", "none")),
        {"binary_weights": False},
        {"preferred_element_type": jnp.float32},
    ],
    ids=str,
)
def test_strict_promotion_with_bfloat16(options, param_dtype):
    """With a dtype, layers need no implicit promotion. Dtypes are promoted during tracing, so nothing needs to run."""
    options = {"use_bias": True, "dtype": jnp.bfloat16, "param_dtype": param_dtype, **options}
    for made in (recu_jax.BinaryConv(4, (3, 3), **options), recu_jax.BinaryDense(4, **options)):

        def gradients(x, layer=made):
            variables = layer.init(jax.random.key(0), x)

            def loss(variables):
                given = recu_jax.with_tau(variables, 0.9, progress=0.5)
                return layer.apply(given, x, mutable=["batch_stats"])[0].astype(jnp.float32).sum()

            return layer.apply(variables, x), jax.grad(loss)(variables)

        for dtype in (jnp.bfloat16, jnp.float32):
            jax.eval_shape(gradients, X.astype(dtype))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "digits_resnet8")) for name in MODELS]
)
def test_strict_promotion_of_models_with_bfloat16(name):
    kind = recu_jax.layers.Conv if name in FULL_PRECISION else recu_jax.BinaryConv
    model = recu_jax.create_model(name, dtype=jnp.bfloat16, conv=kind)

    def gradients(x):
        variables = model.init(jax.random.key(0), x)

        def loss(params):
            given = {**variables, "params": params}
            return model.apply(given, x, tau=0.9, train=True, mutable=["batch_stats"])[0].astype(jnp.float32).sum()

        return model.apply(variables, x), jax.grad(loss)(variables["params"])

    side = 8 if name.startswith("digits") else 32
    jax.eval_shape(gradients, jax.ShapeDtypeStruct((2, side, side, 3), jnp.bfloat16))
