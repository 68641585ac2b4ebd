"""1-bit neural networks in JAX: ReCU (Xu et al., ICCV 2021) as pure functions, Flax layers, models, and training.

`__init__.pyi` lists the public names. Each name is imported at its first use, so `recu_jax.deploy` works without Flax.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
