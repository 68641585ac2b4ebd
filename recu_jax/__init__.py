"""1-bit neural networks in JAX: ReCU (Xu et al., ICCV 2021) as pure functions, Flax layers, models, and training.

What is public here is imported when it is first used, so that `recu_jax.deploy` does without Flax.
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "binarizers", "bop", "cost", "deploy", "diagnostics", "functional", "layers", "models", "nnx", "schedules",
)  # fmt: skip
_NAMES = {
    "backend": ("set_xla_flags",),
    "cost": ("model_cost",),
    "errors": ("RunFailed", "UserError"),
    "functional": (
        "approx_sign", "binarize_activations", "binarize_weights", "binary_conv", "binary_dense", "computed_alpha",
        "laplace_quantile", "laplace_scale", "latent_to_clamped", "normalize_sample", "recu", "sign", "standardize",
        "ste_sign",
    ),
    "layers": ("BinaryConv", "BinaryDense"),
    "models": ("create_model",),
    "schedules": (
        "cosine_learning_rate", "cosine_tau", "exponential_tau", "linear_learning_rate", "linear_tau",
        "step_learning_rate", "training_progress",
    ),
    "whole_model": ("binary_layers", "set_tau", "with_tau"),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted((*_MODULES, *_HOME))


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"recu_jax.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"recu_jax.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'recu_jax' has no attribute {name!r}")


def __dir__():
    return sorted((*globals(), *__all__))
