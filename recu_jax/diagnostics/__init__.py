"""What happens to the weights of a binary network: measured per binary layer and epoch, beside what theory says.

    layers = diagnostics.binary_layers(model, x)
    memory = diagnostics.remember(variables, layers)
    ...                                                   # an epoch of training
    measure = jax.jit(functools.partial(diagnostics.measure_weights, layers=layers))
    measured, memory = measure(variables, memory, tau)
    diagnostics.by_layer(measured, layers)["layer1_0/conv1"]["dead"]

All are functions of the variables of any Linen model that holds our layers; `weights` says what a dead weight is.
`recu_jax.main` does this by itself and keeps the results in `diagnostics.jsonl`.
"""

from recu_jax.diagnostics import measures, theory
from recu_jax.diagnostics.activations import activation_windows
from recu_jax.diagnostics.binary_layers import BinaryLayer, binary_layers, layers_in, with_binary_weights
from recu_jax.diagnostics.weights import DEAD_EPOCHS, DEAD_UPDATE, Memory, by_layer, measure_weights, remember

__all__ = [
    "DEAD_EPOCHS",
    "DEAD_UPDATE",
    "BinaryLayer",
    "Memory",
    "activation_windows",
    "binary_layers",
    "by_layer",
    "layers_in",
    "measure_weights",
    "measures",
    "remember",
    "theory",
    "with_binary_weights",
]
