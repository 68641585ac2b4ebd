"""Trains plain Flax models with recu_jax layers in place of `nn.Conv` or `nnx.Linear`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

import recu_jax.nnx
from recu_jax import BinaryConv, binary_layers, set_tau, with_tau

pytestmark = pytest.mark.slow
STEPS = 40


@pytest.fixture(scope="module")
def digits():
    """Returns 128 images (batch, height, width, 1) with values around 0, and their classes."""
    pixels, classes = load_digits(return_X_y=True)
    return jnp.asarray(pixels[:128].reshape(-1, 8, 8, 1) / 8 - 1, "float32"), jnp.asarray(classes[:128])


def cross_entropy(logits, classes):
    return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()


class ResNet(nn.Module):
    conv: type[nn.Module] = nn.Conv

    @nn.compact
    def __call__(self, x, train):
        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = norm(nn.Conv(16, (3, 3))(x))
        for features, strides in ((16, 1), (32, 2)):
            y = nn.relu(norm(self.conv(features, (3, 3), strides=strides, use_bias=False)(x)))
            y = norm(self.conv(features, (3, 3), padding=1, use_bias=False)(y - 0.5))
            if strides == 2:
                x = nn.avg_pool(jnp.concatenate([x, x], -1), (2, 2), (2, 2))
            x = x + y
        return nn.Dense(10)(x.mean((1, 2)))


def test_linen_resnet(digits):
    images, classes = digits
    plain, model = ResNet(), ResNet(conv=BinaryConv)
    assert [layer.path for layer in binary_layers(model, images, train=False)] == [f"BinaryConv_{i}" for i in range(4)]
    variables = jax.jit(model.init, static_argnames="train")(jax.random.key(0), images, train=False)
    jax.eval_shape(lambda x: plain.init(jax.random.key(0), x, train=False), images)
    optimizer = optax.adam(0.01)

    @jax.jit
    def train_step(variables, state, tau):
        def loss(params):
            logits, changed = model.apply(
                with_tau({**variables, "params": params}, tau), images, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, classes), changed

        (value, changed), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradients, state)
        return {"params": optax.apply_updates(variables["params"], updates), **changed}, state, value

    state, values = optimizer.init(variables["params"]), []
    for i in range(STEPS):
        variables, state, value = train_step(variables, state, 0.85 + 0.14 * i / STEPS)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0], values
    logits = jax.jit(model.apply, static_argnames="train")(variables, images, train=False)
    assert (logits.argmax(-1) == classes).mean() > 0.5


class ViT(nnx.Module):
    """A transformer with two blocks of attention and MLP. Its tokens are patches of 2x2 pixels."""

    def __init__(self, linear, rngs):
        self.embed = nnx.Linear(4, 32, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 16, 32)))
        for i in range(2):
            setattr(self, f"norm{i}a", nnx.LayerNorm(32, rngs=rngs))
            setattr(self, f"qkv{i}", linear(32, 96, rngs=rngs))
            setattr(self, f"out{i}", linear(32, 32, rngs=rngs))
            setattr(self, f"norm{i}b", nnx.LayerNorm(32, rngs=rngs))
            setattr(self, f"up{i}", linear(32, 64, rngs=rngs))
            setattr(self, f"down{i}", linear(64, 32, rngs=rngs))
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        tokens = images.reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4)
        x = self.embed(tokens) + self.positions[...]
        for i in range(2):
            qkv = getattr(self, f"qkv{i}")(getattr(self, f"norm{i}a")(x)).reshape(-1, 16, 3, 2, 16)
            y = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(-1, 16, 32)
            x = x + getattr(self, f"out{i}")(y)
            x = x + getattr(self, f"down{i}")(nnx.gelu(getattr(self, f"up{i}")(getattr(self, f"norm{i}b")(x))))
        return self.head(self.norm(x).mean(1))


def test_nnx_vit(digits):
    images, classes = digits
    nnx.eval_shape(lambda: ViT(nnx.Linear, nnx.Rngs(0)))
    model = ViT(recu_jax.nnx.BinaryDense, nnx.Rngs(0))
    assert len(binary_layers(model)) == 8
    optimizer = nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, tau):
        set_tau(model, tau)
        value, gradients = nnx.value_and_grad(lambda model: cross_entropy(model(images), classes))(model)
        optimizer.update(model, gradients)
        return value

    set_tau(model, 0.85)  # otherwise step 2 would compile again
    model.train()
    values = [float(train_step(model, optimizer, 0.85 + 0.14 * i / STEPS)) for i in range(STEPS)]
    assert values[-1] < 0.6 * values[0], values
    model.eval()
    assert (nnx.jit(lambda model: model(images))(model).argmax(-1) == classes).mean() > 0.5
