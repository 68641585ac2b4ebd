"""Defines the config fields of a run, checks them, and loads the files that set them.

An experiment starts from the base config and changes fields:

    config = base_config()
    config.epochs = 20
"""

from recu_jax.config.fields import base_config
from recu_jax.config.files import load

__all__ = ["base_config", "load"]
