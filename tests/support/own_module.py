"""Defines what a user's own module may have: valid and faulty models, binarizers and trackers for a config."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from recu_jax import BinaryConv
from recu_jax.binarizers import ActivationBinarizer, WeightBinarizer, weights
from recu_jax.binarizers.signs import sign_with_slope


@dataclasses.dataclass(frozen=True)
class Triangle(ActivationBinarizer):
    width: float = 1.0

    def __call__(self, x, *, sample_ndim, train, progress=None):
        return sign_with_slope(x, jnp.maximum(0, 1 - jnp.abs(x) / self.width))


wide = Triangle(2.0)


class Flipped(Triangle):
    def __call__(self, x, *, sample_ndim, train, progress=None):
        return -super().__call__(x, sample_ndim=sample_ndim, train=train)


class Halved(Triangle):
    def __call__(self, x, *, sample_ndim, train, progress=None):
        return super().__call__(x, sample_ndim=sample_ndim, train=train)[..., ::2]


@dataclasses.dataclass(frozen=True)
class Identity(WeightBinarizer):
    def __call__(self, kernel, tau=None, progress=None):
        return sign_with_slope(kernel, jnp.ones_like(kernel)), None


class NoTau(Identity):
    def __call__(self, kernel):
        return kernel, None


def plain_sign(w):
    return w


class NoScale(Identity):
    def __call__(self, kernel, tau=None, progress=None):
        return sign_with_slope(kernel, jnp.ones_like(kernel))


@dataclasses.dataclass(frozen=True)
class Scaled(Identity):
    """A binarizer whose scale is 1, in the shape `(count,)`; None means one number for each feature."""

    count: int | None = None

    def __call__(self, kernel, tau=None, progress=None):
        return super().__call__(kernel)[0], jnp.ones(self.count or kernel.shape[-1])


one_scale = Scaled(1)


class Raises(Identity):
    def __call__(self, kernel, tau=None, progress=None):
        raise RuntimeError("no signs\ntoday")


class NoHash(Identity):
    __hash__ = None


def half():
    return weights.ReCU(b=0.5)


number = 3


class Net(nn.Module):
    """A model that takes neither tau nor train."""

    num_classes: int
    conv: type = BinaryConv

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), name="first")(x)
        x = x + self.conv(8, (3, 3), name="binary")(nn.LayerNorm(name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class Relu(Net):
    """A model whose binary layer cannot learn, because all its inputs are >= 0."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="first")(x))
        return nn.Dense(self.num_classes, name="head")(self.conv(8, (3, 3), name="binary")(x).mean((1, 2)))


class Fixed(Net):
    """A model that takes tau and train, but no `conv`."""

    conv: type = dataclasses.field(default=BinaryConv, init=False)

    @nn.compact
    def __call__(self, x, tau=None, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Conv(8, (3, 3), name="first")(x))
        x = BinaryConv(8, (3, 3), name="binary")(x, tau=tau, train=train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class WithLayerNorm(nn.Module):
    """A model that takes every argument that a config sets, and compiles in a second."""

    num_classes: int
    conv: type = BinaryConv
    dtype: jnp.dtype | None = None
    param_dtype: jnp.dtype = jnp.float32

    def norm(self, x, train):
        return nn.LayerNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")(x)

    @nn.compact
    def __call__(self, x, tau=None, train=False):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = self.norm(nn.Conv(8, (3, 3), **types, name="first")(x), train)
        x = x + self.conv(8, (3, 3), **types, name="binary")(x, tau=tau, train=train)
        return nn.Dense(self.num_classes, **types, name="head")(x.mean((1, 2)))


class WithBatchNorm(WithLayerNorm):
    def norm(self, x, train):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return nn.BatchNorm(use_running_average=not train, **types, name="norm")(x)


def net(num_classes, **arguments):
    return Net(num_classes)


def without_classes():
    return Net(10)


def two_too_many(num_classes):
    return Net(num_classes + 2)


def no_model(num_classes):
    return "resnet"


class Broken(Net):
    @nn.compact
    def __call__(self, x):
        return x @ jnp.ones((7, 7))


class Remembers(Net):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "x", lambda: jnp.zeros(()))
        return super().__call__(x)


class Kept:
    """A tracker that appends all that it gets to `calls`, a list of its class."""

    calls: ClassVar[list[tuple]] = []

    def __init__(self, run):
        self.calls.append((run,))

    def scalars(self, step, values):
        self.calls.append((step, values))

    def close(self):
        self.calls.append(())


def gone(*_):
    raise ConnectionError("the network is gone,\nand so on")


class FailsAtStart(Kept):
    __init__ = gone


class FailsWhenItWrites(Kept):
    scalars = gone


class FailsAtTheEnd(Kept):
    close = gone


class EndsTheProgram(Kept):
    def __init__(self, run):
        raise SystemExit("the network is gone, and so on")
