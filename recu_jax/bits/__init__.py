"""Signs as bits, 32 to a word, and convolution of them by xor and popcount.

`ops` has the operations, for training's forward pass (`recu_jax.scaled_conv`), for files of bits (`recu_jax.deploy`),
and for programs of your own. Needs jax and NumPy alone.
"""
