"""The commands of `recu`, one module for each. A module parses arguments, calls the library, and prints.

`recu_jax.__main__` lists the commands.
"""
