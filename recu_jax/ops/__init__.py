"""Signs packed as bits, 32 to a word, and their convolution by xor and popcount.

`binary_conv` has the operations for programs of your own. `packed` chooses between compiled kernels and XLA;
`scaled_conv` uses it for training, and `recu_jax.deploy` for files of bits. Only jax and NumPy are needed.
"""
