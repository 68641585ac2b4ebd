"""The one exception a user may see: its message is shown alone, without a traceback."""


class UserError(ValueError):
    """A mistake in the input: config field, file, data set, workdir.

    The message is one line that gives the value, the rule it breaks, and the way out. `recu_jax.main` prints it
    and exits with status 2; from Python it is a `ValueError` like any other.
    """
