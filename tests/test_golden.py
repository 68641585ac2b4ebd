"""Compares layers and whole models with the official code, in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from recu_jax import BinaryConv, UserError, create_model
from recu_jax.data.augment import normalize
from recu_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from recu_jax.functional import clamped_weights, laplace_quantile, laplace_scale, standardize
from recu_jax.models.batch_norm import BatchNorm
from recu_jax.optimizers import decay_mask
from recu_jax.pytorch.variables import from_torch, to_torch
from tests.support import float64_conv
from tests.support import golden_values as golden

pytestmark = pytest.mark.usefixtures("x64")

# For each record, the name of the recu_jax model and its number of classes.
MODELS = {
    "cifar_resnet20": ("cifar_resnet20", 10),
    "cifar100_resnet20": ("cifar_resnet20", 100),
    "cifar_resnet18": ("cifar_resnet18", 10),
    "cifar_vgg_small": ("cifar_vgg_small", 10),
    "imagenet_resnet18": ("imagenet_resnet18", 1000),
    "imagenet_resnet34": ("imagenet_resnet34", 1000),
    "two_stage_resnet18": ("react_resnet18", 1000),
    "two_stage_resnet34": ("react_resnet34", 1000),
}
# For each record that has SGD steps: the weight decay, and the parameters that it applies to.
SGD = {"cifar_resnet20": (5e-4, "all"), "imagenet_resnet18": (1e-4, "conv_and_linear")}
# XLA's float64 convolution on the CPU is slow, 1 GFLOP/s: the gradients of the larger models alone would take six
# minutes. Models that are not in SMALL use `float64_conv`, which a test below compares with XLA's.
SMALL = ("cifar_resnet20", "cifar100_resnet20")
# The gradients of these models are not compared, because gradients take most of the time. Each of these models differs
# only by more blocks or classes from a model whose gradients are compared.
WITHOUT_GRADIENTS = ("cifar100_resnet20", "imagenet_resnet34", "two_stage_resnet34")
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.fixture(params=range(5))
def layer_case(request):
    z = dict(np.load(golden.FOLDER / f"binarize_conv_{request.param}.npz"))
    z["kernel"] = z["weight_oihw"].transpose(2, 3, 1, 0)
    z["tau"] = float(z["tau"])
    return z


def test_weights_of_a_layer(layer_case):
    z = layer_case
    w = standardize(z["kernel"])
    assert relative(w.transpose(3, 2, 0, 1), z["w_standardized"]) < 1e-10
    np.testing.assert_allclose(laplace_quantile(laplace_scale(w), z["tau"]), z["q_tau"], rtol=1e-10)
    assert relative(clamped_weights(z["kernel"], z["tau"]).transpose(3, 2, 0, 1), z["w_clamped"]) < 1e-10


def test_outputs_and_gradients_of_a_layer(layer_case):
    z = layer_case
    window, features = z["kernel"].shape[:2], z["kernel"].shape[-1]
    layer = BinaryConv(features, window, int(z["stride"]), int(z["padding"]), param_dtype=jnp.float64)
    x = jnp.asarray(z["x_nchw"].transpose(0, 2, 3, 1))
    params = {"kernel": jnp.asarray(z["kernel"]), "alpha": jnp.asarray(z["alpha"].reshape(-1))}

    def apply(params, x):
        return layer.apply({"params": params}, x, tau=z["tau"], train=True)

    @jax.jit  # one program instead of a hundred
    def run(params, x, dy):
        y, vjp = jax.vjp(apply, params, x)
        return y, *vjp(dy)

    y, dparams, dx = jax.device_get(run(params, x, z["cotangent"].transpose(0, 2, 3, 1)))
    assert relative(y.transpose(0, 3, 1, 2), z["y_train"]) < 1e-10
    assert relative(layer.apply({"params": params}, x).transpose(0, 3, 1, 2), z["y_eval"]) < 1e-10
    assert relative(dx.transpose(0, 3, 1, 2), z["dx"]) < 1e-10
    assert relative(dparams["kernel"].transpose(3, 2, 0, 1), z["dweight"]) < 1e-10
    assert relative(dparams["alpha"], z["dalpha"].reshape(-1)) < 1e-10


def loss_and_gradients(model, tau, compiler_options, gradients):
    """Returns a step: (params, batch_stats, x, y) -> ((loss, (logits, batch_stats)), gradients or None)."""

    def loss(params, batch_stats, x, y):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, changed = model.apply(variables, x, tau=tau, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), (logits, changed["batch_stats"])

    step = jax.value_and_grad(loss, has_aux=True) if gradients else lambda *arguments: (loss(*arguments), None)
    return jax.jit(step, compiler_options=compiler_options)


def with_unbiased_variance(model, variables, x, after):
    """Converts the running statistics `after` a step to PyTorch's, which use the variance times n / (n - 1)."""
    counts = {}

    def record(next_function, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            counts[*context.module.path, "var"] = args[0].size // args[0].shape[-1]
        return next_function(*args, **kwargs)

    with nn.intercept_methods(record):
        # A new lambda each time: JAX caches the trace of a function, and a cached trace would record nothing.
        jax.eval_shape(lambda variables, x: model.apply(variables, x), variables, x)
    before, after = flatten_dict(variables["batch_stats"]), flatten_dict(after)
    for path, n in counts.items():
        after[path] = 0.9 * before[path] + (after[path] - 0.9 * before[path]) * n / (n - 1)
    return unflatten_dict(after)


@pytest.mark.slow
@pytest.mark.parametrize("window,stride,padding", [(7, 2, 3), (3, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_the_convolution_of_the_larger_models_is_the_real_one(window, stride, padding):
    r = np.random.default_rng(window + stride)
    x, kernel = r.normal(size=(2, 9, 11, 3)), r.normal(size=(window, window, 3, 4))

    def output_and_gradients(conv):
        spec = nn.Conv(4, (window, window), stride, ((padding, padding),) * 2, use_bias=False, param_dtype=jnp.float64)
        spec = spec.clone(conv_general_dilated=conv)
        y, vjp = jax.vjp(lambda kernel, x: spec.apply({"params": {"kernel": kernel}}, x), kernel, x)
        return y, *vjp(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    ours, real = map(output_and_gradients, (float64_conv.conv_general_dilated, jax.lax.conv_general_dilated))
    for a, b in zip(ours, real, strict=True):
        assert relative(a, b) < 1e-12


@pytest.mark.parametrize(
    "record_name",
    [
        pytest.param(m, marks=[pytest.mark.slow] + [pytest.mark.as_users_compile] * (m == "cifar_resnet20"))
        for m in MODELS
    ],
)
def test_model(record_name, monkeypatch):
    name, num_classes = MODELS[record_name]
    record, arrays = golden.load(record_name)
    filled = golden.state_dict(record)
    x, y = golden.batch(record_name, record, num_classes)
    np.testing.assert_array_equal(y, arrays["labels"])
    variables = jax.tree.map(jnp.asarray, from_torch(name, filled))
    model = create_model(name, num_classes, param_dtype=jnp.float64)

    options = {} if record_name in SMALL else QUICK_COMPILE
    if record_name not in SMALL:
        monkeypatch.setattr(jax.lax, "conv_general_dilated", float64_conv.conv_general_dilated)
    assert relative(jax.jit(model.apply, compiler_options=options)(variables, x), arrays["eval_logits"]) < 1e-8
    step = loss_and_gradients(model, record["tau"], options, record_name not in WITHOUT_GRADIENTS)
    (loss, (logits, batch_stats)), grads = step(variables["params"], variables["batch_stats"], x, y)
    assert relative(logits, arrays["train_logits"]) < 1e-8
    np.testing.assert_allclose(loss, record["loss"], rtol=1e-8)

    batch_stats = with_unbiased_variance(model, variables, x, batch_stats)
    # `to_torch` takes all variables. Without gradients, the parameters stand in their place.
    got = to_torch(name, {"params": grads or variables["params"], "batch_stats": batch_stats})
    for key, (norm, projection) in record["grad_norm_and_projection"].items() if grads else ():
        our_norm, our_projection = golden.norm_and_projection(key, got[key])
        assert abs(our_norm - norm) < 1e-8 * norm, key
        assert abs(our_projection - projection) < 1e-8 * norm, key
    for key, (norm, projection) in record["running_stats_after_one_train_forward_norm_and_projection"].items():
        np.testing.assert_allclose(
            golden.norm_and_projection(key, got[key]), (norm, projection), rtol=1e-8, err_msg=key
        )
    # SGD is checked in the same test, so that the step is compiled once.
    if record_name in SGD:
        losses = golden.load(f"{record_name}_sgd")[0]["train_step_losses"]
        np.testing.assert_allclose(sgd_losses(step, variables, x, y, len(losses), *SGD[record_name]), losses, rtol=1e-7)


def sgd_losses(step, variables, x, y, count, weight_decay, decay_groups):
    """Returns the loss before each of `count` steps of the recipe in SPEC.md section 7."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    decay = optax.add_decayed_weights(weight_decay, decay_mask(params, decay_groups))
    optimizer = optax.chain(decay, optax.sgd(0.1, 0.9))
    opt_state = optimizer.init(params)
    losses = []
    for _ in range(count):
        (loss, (_, batch_stats)), grads = step(params, batch_stats, x, y)
        losses.append(loss)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("record_name", MODELS)
def test_torch_round_trip(record_name):
    name, _ = MODELS[record_name]
    filled = golden.state_dict(golden.load(record_name)[0])
    back = to_torch(name, from_torch(name, filled))
    assert list(back) != [] and back.keys() == filled.keys()
    for key, array in filled.items():
        np.testing.assert_array_equal(back[key], array)


def test_official_checkpoint():
    # The state_dict of official_checkpoint_resnet20.pth.tar as NumPy arrays. tests/experiments/test_torch_recu.py
    # compares these arrays with that file.
    state_dict = dict(np.load(golden.FOLDER / "official_checkpoint_resnet20.npz"))
    recorded = np.load(golden.FOLDER / "official_checkpoint_resnet20_eval.npz")
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), from_torch("cifar_resnet20", state_dict))
    x = normalize(recorded["images_nhwc_uint8"], IMAGENET_MEAN, IMAGENET_STD, jnp.float64)
    logits = jax.jit(create_model("cifar_resnet20", param_dtype=jnp.float64).apply)(variables, x)
    assert relative(logits, recorded["eval_logits"]) < 1e-8


def test_a_state_dict_that_does_not_fit_is_listed_whole():
    record, _ = golden.load("cifar_resnet20")
    given = golden.state_dict(record)
    del given["bn1.bias"], given["layer2.1.conv2.alpha"]
    given["fc.weight"] = np.zeros((10, 64))
    given["conv1.weight"] = np.zeros((16, 3, 5, 5))
    with pytest.raises(UserError) as error:
        from_torch("cifar_resnet20", given)
    for part in (
        "missing bn1.bias (16,)",
        "missing layer2.1.conv2.alpha (32, 1, 1)",
        "extra fc.weight (10, 64)",
        "misshapen conv1.weight (16, 3, 5, 5), should be (16, 3, 3, 3)",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
