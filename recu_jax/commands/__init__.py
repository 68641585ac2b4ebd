"""Holds the modules of the commands of `recu`. They parse arguments, call the library, and print.

`recu_jax.__main__` lists the commands. The module `train` has both `recu train` and `recu eval`.
"""
