"""Provides optimizers of 1-bit weights, and the masks for weight decay and freezing. All are optax transformations.

| file | contents |
|---|---|
| `masks` | which parameters decay, and which a run freezes |
| `sign_flips` | Bop, which flips signs and has no latent weights |
| `silent_weights` | OvSW's two rules for latent weights whose signs hardly change |
| `fixed_norm` | Muon, which turns kernels and leaves their norm as it is |
| `of_kernels` | gives the binary kernels of a model an optimizer of their own |
"""

from recu_jax.optimizers.fixed_norm import MuonState, muon
from recu_jax.optimizers.masks import DECAY_GROUPS, decay_mask, frozen_mask, with_frozen
from recu_jax.optimizers.of_kernels import with_bop, with_own
from recu_jax.optimizers.sign_flips import BopState, bop
from recu_jax.optimizers.silent_weights import OvSWState, ovsw

__all__ = [
    "DECAY_GROUPS",
    "BopState",
    "MuonState",
    "OvSWState",
    "bop",
    "decay_mask",
    "frozen_mask",
    "muon",
    "ovsw",
    "with_bop",
    "with_frozen",
    "with_own",
]
