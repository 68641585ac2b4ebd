"""Provides the binarizers of weights and of activations, all with the same interface.

    from recu_jax.binarizers import activations, weights

    BinaryConv(64, (3, 3), kernel_binarizer=weights.Libra(), input_binarizer=activations.EDE())  # IR-Net
    create_model("cifar_resnet20", conv=partial(BinaryConv, kernel_binarizer=weights.XNORNet(), alpha="none"))

Each binarizer of weights works with each binarizer of activations. The fields `config.weight_binarizer` and
`config.activation_binarizer` choose them by name. `"package.module:name"` chooses a binarizer of a user's own module.

A binarizer is a small frozen object. All binarizers return signs, with sign(0) = +1. They differ in their gradients, in
the scale and the offset that go with the signs, and in whether they center or shift their input before they take its
signs. Annealed binarizers (EDE, ReSTE, Libra, AdaBin of weights) change their gradient during the training: give the
layers `progress`, from 0 to 1, beside `tau`.

| file | contents |
|---|---|
| `interface` | the two base classes |
| `signs` | the sign with each paper's gradient, as functions of arrays |
| `weights`, `activations` | the binarizers |
| `own` | loads binarizers of a user's own module by name |
| `react` | ReActNet's RPReLU, the nonlinearity that goes with `activations.RSign` |
"""

from typing import Any

from recu_jax.binarizers import activations, own, weights
from recu_jax.binarizers.interface import ActivationBinarizer, WeightBinarizer
from recu_jax.errors import unknown
from recu_jax.references import is_reference

WEIGHTS: dict[str, type[WeightBinarizer]] = {
    "recu": weights.ReCU,
    "clipped_sign": weights.ClippedSign,
    "xnor_net": weights.XNORNet,
    "magnitude_aware_sign": weights.MagnitudeAwareSign,
    "dorefa": weights.DoReFa,
    "libra": weights.Libra,
    "adabin": weights.AdaBin,
}
ACTIVATIONS: dict[str, type[ActivationBinarizer]] = {
    "recu": activations.ReCU,
    "clipped_sign": activations.ClippedSign,
    "approx_sign": activations.ApproxSign,
    "swish_sign": activations.SwishSign,
    "ede": activations.EDE,
    "reste": activations.ReSTE,
    "rsign": activations.RSign,
    "adabin": activations.AdaBin,
}

__all__ = [
    "ACTIVATIONS", "WEIGHTS", "ActivationBinarizer", "WeightBinarizer", "activation_binarizer",
    "activations", "weight_binarizer", "weights",
]  # fmt: skip


def weight_binarizer(name: str, **recu: Any) -> WeightBinarizer:
    """Returns the binarizer of weights called `name`.

    Args:
      name: a key of `WEIGHTS`, or `"package.module:name"` of a user's own binarizer.
      **recu: attributes of `weights.ReCU`; other binarizers ignore them.

    Raises:
      UserError: no binarizer has this name; or, for a user's own binarizer, as in `own.weight_binarizer`.
    """
    if is_reference(name):
        return own.weight_binarizer(name)
    if name not in WEIGHTS:
        raise unknown("weight binarizer", name, WEIGHTS)
    return weights.ReCU(**recu) if name == "recu" else WEIGHTS[name]()


def activation_binarizer(name: str) -> ActivationBinarizer:
    """Returns the binarizer of activations called `name`, a key of `ACTIVATIONS` or `"package.module:name"`.

    Raises:
      UserError: no binarizer has this name; or, for a user's own binarizer, as in `own.activation_binarizer`.
    """
    if is_reference(name):
        return own.activation_binarizer(name)
    if name not in ACTIVATIONS:
        raise unknown("activation binarizer", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
