"""The exceptions a user may see: their messages are shown alone, without a traceback."""

import difflib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class UserError(ValueError):
    """A mistake in the input: config field, file, data set, workdir.

    The message is one line that gives the value, the rule it breaks, and the way out. `recu_jax.main` prints it
    and exits with status 2; from Python it is a `ValueError` like any other.
    """


class RunFailed(RuntimeError):  # noqa: N818  (the field speaks of failed runs)
    """What ended a run through no mistake in its input: a full disk, a loss that is not finite, a dead worker.

    The message is one line that says what happened, what is kept, and the way out. `recu_jax.main` prints it and exits
    with status 3.
    """


def one_line(said: object, most: int | None = None) -> str:
    """What an error or a person said, without its line breaks, at most `most` characters; an empty error's kind."""
    return " ".join(str(said).split())[:most] or type(said).__name__


def unknown(what: str, value: object, names: Iterable[str]) -> UserError:
    """The error for a `value` of `what` that is none of `names`; points at the nearest of them."""
    names = list(names)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"{what} is {value!r}, which does not exist; {hint}it must be one of: {', '.join(names)}")


def first_few(items: Sequence[Any], most: int, separator: str = "; ", name: Callable[[Any], str] = str) -> str:
    """The first `most` of `items` for a message, and how many more there are: `a; b; and 3 more`."""
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(map(name, items[:most])) + more


def require(extra: str, *packages: str) -> None:
    """Raises UserError if one of `packages`, which the optional dependencies `extra` bring, is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; type: pip install 'recu_jax[{extra}]'")
