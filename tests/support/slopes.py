"""Defines in NumPy the slopes that papers give to sign, and a grid with numbers on both sides of every kink."""

import jax
import jax.numpy as jnp
import numpy as np

KINKS = np.array([0.1, 1.0, 1.5])
# No number is subnormal, because XLA treats subnormal numbers as 0.
AROUND_ZERO = [0.0, 1e-300, -1e-300, 1e-9, -1e-9]
BESIDE_KINKS = [s * np.nextafter(KINKS, to) for s in (-1, 1) for to in (-9, 9)]
GRID = np.unique(np.concatenate([np.linspace(-3, 3, 61), *BESIDE_KINKS, KINKS, -KINKS, AROUND_ZERO]))


def t_of(progress):
    return 0.1 * 100**progress


def o_of(progress):
    return 1 + 2 * (1 - np.cos(np.pi * progress / 2))


def approx(x):
    return np.where(abs(x) < 1, 2 - 2 * abs(x), 0)


def clipped(x, clip=1.0):
    return np.where(abs(x) <= clip, 1.0, 0.0)


def swish(x, beta):
    return beta * (2 - beta * x * np.tanh(beta * x / 2)) / (1 + np.cosh(beta * x))


def ede(x, t):
    return max(1 / t, 1) * t * (1 - np.tanh(t * x) ** 2)


def reste(x, o, near=0.1, far=1.5):
    inside = np.array([abs(v) ** ((1 - o) / o) / o if abs(v) > near else near ** (1 / o) / near for v in x])
    return np.where(abs(x) <= far, inside, 0)


def slope(function, x):
    """Returns the factors by which `function` multiplies a cotangent. All elements of the cotangent differ."""
    cotangent = np.arange(1.0, 1 + x.size).reshape(x.shape)
    return jax.vjp(function, jnp.asarray(x))[1](jnp.asarray(cotangent))[0] / cotangent
