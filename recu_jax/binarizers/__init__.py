"""Ways to binarise weights and activations, behind one interface.

    from recu_jax.binarizers import activations, weights

    BinaryConv(64, (3, 3), weights=weights.Libra(), activations=activations.EDE())         # IR-Net's convolution
    create_model("cifar_resnet20", conv=partial(BinaryConv, weights=weights.XNORNet(), scale="none"))

Any pair goes together. By config they have names: `config.weight_binarizer`, `config.activation_binarizer`. A binarizer
is a small frozen object, see `interface`; all of them give signs, sign(0) is +1, and differ in their gradients and in
the scale of the weights. The annealed ones (EDE, ReSTE, Libra) need to know how far the training is: give the layers
`tau=Annealed(tau, progress)` where `tau` goes.

| file | |
|---|---|
| `interface` | what a binarizer is, and `Annealed` |
| `signs` | the sign with each paper's gradient, as functions of arrays |
| `weights`, `activations` | the binarizers |
| `react` | ReActNet's RPReLU, the nonlinearity that goes with `activations.RSign` |
"""

from typing import Any

from recu_jax.binarizers import activations, weights
from recu_jax.binarizers.interface import ActivationBinarizer, Annealed, WeightBinarizer
from recu_jax.errors import unknown

WEIGHTS: dict[str, type[WeightBinarizer]] = {
    "recu": weights.ReCU,
    "clipped_sign": weights.ClippedSign,
    "xnor_net": weights.XNORNet,
    "magnitude_aware_sign": weights.MagnitudeAwareSign,
    "dorefa": weights.DoReFa,
    "libra": weights.Libra,
}
ACTIVATIONS: dict[str, type[ActivationBinarizer]] = {
    "recu": activations.ReCU,
    "clipped_sign": activations.ClippedSign,
    "approx_sign": activations.ApproxSign,
    "swish_sign": activations.SwishSign,
    "ede": activations.EDE,
    "reste": activations.ReSTE,
    "rsign": activations.RSign,
}

__all__ = [
    "ACTIVATIONS", "WEIGHTS", "ActivationBinarizer", "Annealed", "WeightBinarizer", "activation_binarizer",
    "activations", "weight_binarizer", "weights",
]  # fmt: skip


def weight_binarizer(name: str, **recu: Any) -> WeightBinarizer:
    """The binarizer of weights called `name`, a key of `WEIGHTS`; `recu` are attributes of `weights.ReCU`.

    Raises:
      UserError: no binarizer of this name.
    """
    if name not in WEIGHTS:
        raise unknown("weight binarizer", name, WEIGHTS)
    return weights.ReCU(**recu) if name == "recu" else WEIGHTS[name]()


def activation_binarizer(name: str) -> ActivationBinarizer:
    """The binarizer of activations called `name`, a key of `ACTIVATIONS`.

    Raises:
      UserError: no binarizer of this name.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation binarizer", name, ACTIVATIONS)
    return ACTIVATIONS[name]()
