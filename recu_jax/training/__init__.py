"""Trains and evaluates networks: recipe, step, epochs, checkpoints and records of a run.

The entry points are `loop.train` and `loop.evaluate`. `step.train_step` is the training step, a pure function that runs
on each device.
"""
