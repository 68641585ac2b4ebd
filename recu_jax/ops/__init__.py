"""Signs packed as bits, 32 to a word, and their convolution by xor and popcount.

`packed` has the operations. `scaled_conv` uses them for training, and `recu_jax.deploy` for files of bits. They can be
used in other programs too. Only jax and NumPy are needed.
"""
