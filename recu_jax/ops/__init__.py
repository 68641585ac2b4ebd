"""Packs signs as bits, 32 to a word, and convolves them by xor and popcount.

`binary_conv` has the operations for a user's own programs. `packed` chooses between compiled kernels and XLA.
`scaled_conv` uses `packed` in training, and `latent_weights` makes the signs of the weights. `recu_jax.deploy` uses
`packed` to run exported files. `binary_conv`, `packed` and `scaled_conv` need only jax and NumPy.
"""
