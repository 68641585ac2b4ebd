"""Training runs: recipe, step, epochs, checkpoints and records.

Start at `loop.train` and `loop.evaluate`. `step.train_step` is the pure function of one device.
"""
