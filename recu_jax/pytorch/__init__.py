"""Reads and writes PyTorch checkpoints, and converts their names and layouts to and from Flax variables.

Both public functions take the name of a model:

    variables = load_variables("resnet20.pth.tar", "cifar_resnet20")
    save_torch("ours.pth.tar", "cifar_resnet20", variables)
"""

from recu_jax.pytorch.variables import load_variables, save_torch

__all__ = ["load_variables", "save_torch"]
