"""The one exception a user may see: its message is shown alone, without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input: config field, file, data set, workdir.

    The message is one line that gives the value, the rule it breaks, and the way out. `recu_jax.main` prints it
    and exits with status 2; from Python it is a `ValueError` like any other.
    """


def unknown(what: str, value: object, names: Iterable[str]) -> UserError:
    """The error for a `value` of `what` that is none of `names`; points at the nearest of them."""
    names = list(names)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"{what} is {value!r}, which does not exist; {hint}it must be one of: {', '.join(names)}")
