"""Measures the weights of each binary layer after each epoch, and compares them with theory.

    layers = recu_jax.binary_layers(model, x)
    memory = diagnostics.remember(variables, layers)
    ...                                                   # an epoch of training
    measure = jax.jit(functools.partial(diagnostics.measure_weights, layers=layers))
    measured, memory = measure(variables, memory, tau=tau, rate=rate)
    diagnostics.by_layer(measured, layers)["layer1_0/conv1"]["dead"]

The functions accept the variables of any Linen model with layers of recu_jax. The module `weights` says when a weight
is dead, and the module `check` says when a layer is dead. `recu_jax.main` measures after each epoch and writes the
results to `diagnostics.jsonl`.
"""

from recu_jax.diagnostics import measures, theory
from recu_jax.diagnostics.activations import activation_windows, measure_inputs
from recu_jax.diagnostics.check import LayerCheck, ModelCheck, check_model
from recu_jax.diagnostics.weights import (
    DEAD_CROSSING,
    DEAD_EPOCHS,
    LEAST_RATE,
    Memory,
    by_layer,
    measure_weights,
    remember,
)

__all__ = [
    "DEAD_CROSSING",
    "DEAD_EPOCHS",
    "LEAST_RATE",
    "LayerCheck",
    "Memory",
    "ModelCheck",
    "activation_windows",
    "by_layer",
    "check_model",
    "measure_inputs",
    "measure_weights",
    "measures",
    "remember",
    "theory",
]
