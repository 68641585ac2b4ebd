"""Holds one module for each command of `recu`. A module parses arguments, calls the library, and prints.

`recu_jax.__main__` lists the commands.
"""
