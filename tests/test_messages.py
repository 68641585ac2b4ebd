"""Checks that every argument and config field that an error message names exists for the reader."""

import ast
import dataclasses
import inspect
import pathlib
import re

import jax.numpy as jnp

import recu_jax
import recu_jax.nnx
from recu_jax import binarizers, functional
from recu_jax.config import base_config
from recu_jax.data.stream import eval_batches, train_batches
from recu_jax.ops import binary_conv

PACKAGE = pathlib.Path(recu_jax.__file__).parent
# `name=` in a message names an argument of a function or class, or a config field.
ARGUMENT = re.compile(r"(?<![\w.-])([a-z][a-z0-9_]*)=(?!=)")
FIELD = re.compile(r"config\.([a-z][a-z0-9_]*)")
FUNCTIONS = [
    recu_jax.BinaryConv, recu_jax.BinaryDense, recu_jax.nnx.BinaryConv, recu_jax.nnx.BinaryDense, recu_jax.set_tau,
    recu_jax.with_tau, recu_jax.create_model, recu_jax.BinaryConv.__call__, functional.clamped_weights,
    functional.standardize, functional.conv_of_signs, train_batches, eval_batches, binary_conv.binary_conv,
    *binarizers.WEIGHTS.values(), *binarizers.ACTIVATIONS.values(),
]  # fmt: skip


def raised_messages():
    """Yields (FILE:LINE, constant text) of each message that the library raises."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            parts = [n.value for n in ast.walk(node.exc) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            yield f"{file.relative_to(PACKAGE)}:{node.lineno}", " ".join(parts)


def test_what_messages_name_exists():
    arguments = {name for function in FUNCTIONS for name in inspect.signature(function).parameters}
    fields, wrong, named = set(base_config()), [], 0
    for where, text in raised_messages():
        for name in FIELD.findall(text):
            named += 1
            if name not in fields | {"base_config", "FIELD"}:
                wrong.append((where, name))
        # Messages write fields with `=` too: `a run with alpha='mean'`.
        for name in ARGUMENT.findall(re.sub(r"--\S+", "", text)):
            named += 1
            if name not in arguments | fields:
                wrong.append((where, name))
    assert named > 40 and wrong == []


def test_the_advice_of_standardize_is_taken_by_what_the_user_called():
    kernel = jnp.ones((1, 1, 1, 4))
    for call in (recu_jax.clamped_weights, recu_jax.binarize_weights):
        try:
            call(kernel, 0.9)
        except recu_jax.UserError as error:
            (advice,) = re.findall(r"use (\w+)=False", str(error))
            assert call(kernel, 0.9, **{advice: False}).shape == kernel.shape
        else:
            raise AssertionError("a channel of one weight has no variance")
    assert advice in {field.name for field in dataclasses.fields(binarizers.weights.ReCU)}
