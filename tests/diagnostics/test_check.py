"""Tests the warnings about networks that cannot learn, in Linen, NNX and in a run."""

import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

import recu_jax.nnx
from recu_jax import BinaryConv, BinaryDense, UserError, check_model, set_tau
from recu_jax.binarizers import activations
from recu_jax.diagnostics.check import dead_layers
from recu_jax.training import loop
from tests.support.small_runs import digits

X = np.random.default_rng(0).standard_normal((16, 6, 6, 3)).astype("float32")


class Net(nn.Module):
    """A network with relu before a convolution, whose class is an argument, as in flax/examples/imagenet."""

    conv: type[nn.Module] = nn.Conv
    nonlinearity: str = "relu"
    norm: bool = False

    @nn.compact
    def __call__(self, x):
        x = getattr(jax.nn, self.nonlinearity)(nn.Conv(8, (3, 3), name="first")(x))
        x = nn.LayerNorm()(x) if self.norm else x
        x = self.conv(8, (3, 3), name="conv")(x)
        return BinaryDense(4, name="dense")(nn.LayerNorm()(x.mean((1, 2))))


def checked(model, x=X):
    return check_model(model, jax.jit(model.init)(jax.random.key(0), x), x)


def test_a_relu_before_a_binary_layer():
    check = checked(Net(BinaryConv))
    conv, dense = check.layers
    assert (conv.path, conv.positive_signs, conv.constant_channels, conv.channels) == ("conv", 1, 1, 8)
    # If the outputs of a layer are equal for all examples, so are the inputs of the next layer.
    assert dense.constant_channels == 1 and dense.positive_signs < 1 and check.dead == [conv, dense]
    assert conv.problem.startswith("all its inputs are >= 0, as after a relu") and "BatchNorm" in conv.problem
    text = str(check)
    assert "8 of 8" in text and "100.0%" in text and f"\nconv: {conv.problem}" in text and "dead" in text


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"nonlinearity": "hard_tanh"}, marks=pytest.mark.slow),
        pytest.param({"norm": True}, marks=pytest.mark.slow),
        {"conv": functools.partial(BinaryConv, input_binarizer=activations.RSign(initial_shift=0.5))},
    ],
    ids=["hard_tanh", "norm", "rsign"],
)
def test_the_ways_out(options):
    check = checked(Net(**{"conv": BinaryConv, **options}))
    assert check.dead == [] and 0.05 < check.layers[0].positive_signs < 0.95
    assert str(check).endswith("All binary layers can learn.")


@pytest.mark.slow
def test_a_shift_keeps_relu():
    """With shifts, a gradient reaches the first layer in spite of relu. Learned shifts may start at 0."""
    for shift in (0.0, 0.5):
        model = Net(functools.partial(BinaryConv, input_binarizer=activations.RSign(initial_shift=shift)))
        variables = model.init(jax.random.key(0), X)
        assert (variables["params"]["conv"]["shift"] == shift).all()
        gradients = jax.grad(lambda v, m=model: (m.apply(recu_jax.with_tau(v, 0.9), X) ** 2).sum())(variables)
        assert np.any(gradients["params"]["conv"]["shift"]) and np.any(gradients["params"]["first"]["kernel"])


def test_nnx_names_layers_and_changes_nothing():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.inner = nnx.Sequential(nnx.relu, recu_jax.nnx.BinaryConv(8, 8, (3, 3), rngs=rngs))
            self.last = recu_jax.nnx.BinaryConv(8, 8, (3, 3), rngs=rngs)

        def __call__(self, x):
            x = self.norm(self.first(x))
            return self.inner(x) + self.last(x)

    model = Model(nnx.Rngs(0))
    set_tau(model, 0.9)
    before = jax.tree.map(np.asarray, nnx.state(model))
    check = check_model(model, X)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))
    assert [layer.path for layer in check.layers] == ["inner/layers/1", "last"]
    assert [layer.path for layer in check.dead] == ["inner/layers/1"]
    assert check.layers[1].positive_signs == pytest.approx(0.5, abs=0.1)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(BinaryConv(3, (3, 3), name="conv")(x)), None


LIFTED = {
    "scan": nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3),
    "remat": nn.remat(Block),
    "jit": nn.jit(Block),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != "scan")) for k in LIFTED])
def test_layers_within_transformations(kind):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return LIFTED[kind](name="block")(x, None)[0]

    x = X - X.mean()
    variables = jax.jit(Model().init)(jax.random.key(0), x)
    for _ in range(2):  # the second call does not trace the function of `nn.jit` again
        found = [(layer.path, layer.call, layer.dead) for layer in check_model(Model(), variables, x).layers]
        calls = 3 if kind == "scan" else 1
        assert found == [("block/conv", call, call > 1) for call in range(1, calls + 1)]


def test_nan_and_what_no_gradient_passes():
    layer = BinaryDense(4)
    x = X.reshape(16, -1).copy()
    x[3, 5] = np.nan
    (found,) = checked(layer, x).layers
    assert (
        found.path == ""
        and found.nan_inputs == pytest.approx(1 / x.size)
        and found.problem.startswith("NaN among its inputs")
    )
    clipped = BinaryDense(4, input_binarizer=activations.ClippedSign())
    (found,) = checked(clipped, 100 * X.reshape(16, -1) + np.sign(X.reshape(16, -1))).layers
    assert found.dead and found.problem.startswith("no gradient passes")


def test_mistakes_are_named():
    model = Net(BinaryConv)
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(UserError, match=r"the batch is \(1, 6, 6, 3\); give several examples"):
        check_model(model, variables, X[:1])
    with pytest.raises(UserError, match="a Linen module needs its variables"):
        check_model(model, X)
    with pytest.raises(UserError, match="Conv has no binary layer"):
        checked(nn.Conv(3, (3, 3)))


def test_packed_models_cannot_learn():
    model, layer = Net(BinaryConv), recu_jax.nnx.BinaryDense(3, 4, rngs=nnx.Rngs(0))
    packed = recu_jax.pack(model, model.init(jax.random.key(0), X), X)
    for check in (lambda: check_model(model, packed, X), lambda: check_model(recu_jax.pack(layer), X)):
        with pytest.raises(UserError, match=r"latent weights are gone; give what recu_jax\.pack was given") as caught:
            check()
        assert "\n" not in str(caught.value)


def test_a_run_says_it_at_once_and_records_it(tmp_path, capsys):
    r = np.random.default_rng(0)
    images, labels = r.integers(0, 256, (48, 8, 8, 1), np.uint8), np.arange(48) % 10
    np.savez(tmp_path / "i.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    config = digits(
        model="tests.support.own_module:Relu", dataset="npz", data_dir=str(tmp_path / "i.npz"), batch_size=24,
        eval_batch_size=24, epochs=1, warmup_epochs=0,
    )  # fmt: skip
    loop.train(config, tmp_path / "run")
    said = capsys.readouterr().out
    line = "the binary layer cannot learn: binary: all its inputs are >= 0"
    assert said.count(line) == 1 and said.index(line) < said.index("the first step done")
    (row,) = map(json.loads, (tmp_path / "run" / "diagnostics.jsonl").read_text().splitlines())
    assert row["problems"]["binary"].startswith("all its inputs are >= 0")
    assert row["layers"]["binary"]["positive_signs"] == row["layers"]["binary"]["constant_channels"] == 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert "binary: all its inputs are &gt;= 0, as after a relu" in page and "<th>constant channels</th>" in page


def test_the_names_of_many_layers_are_cut():
    dead = {"positive_signs": 1.0, "constant_channels": 1.0, "in_window": 0.5, "nan_inputs": 0.0}
    good = dead | {"constant_channels": 0.0, "positive_signs": 0.5}
    assert dead_layers({"a": good}) == ""
    assert dead_layers({"a": good, "b": dead, "c": dead}).startswith("2 of 3 binary layers cannot learn: b, c: all its")
