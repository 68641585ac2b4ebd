"""Defines the two exceptions that users see, and functions that write their messages.

Commands print the message of such an exception without a traceback.
"""

import difflib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Maps abbreviations, and names from papers and other libraries, to the names of recu_jax. Keys have neither capitals
# nor punctuation.
MEANINGS = {
    "lr": ("learning_rate",),
    "wd": ("weight_decay",),
    "bs": ("batch_size",),
    "irnet": ("libra", "ede"),
    "bnn": ("clipped_sign",),
    "ste": ("clipped_sign",),
    "birealnet": ("magnitude_aware_sign", "approx_sign"),
    "bireal": ("magnitude_aware_sign", "approx_sign"),
    "reactnet": ("rsign", "rprelu", "react_resnet18"),
    "xnor": ("xnor_net",),
    "bnnplus": ("swish_sign",),
    "scale": ("alpha",),
    "centre": ("center",),
    "b": ("laplace_b",),
    "optim": ("optimizer",),
    "arch": ("model",),
    "workers": ("num_workers",),
    "j": ("num_workers",),
    "gpus": ("num_devices",),
    "lrtype": ("lr_schedule",),
    "scheduler": ("lr_schedule",),
    "numepochs": ("epochs",),
    "precision": ("dtype",),
    "amp": ("dtype",),
    "fp16": ("bfloat16",),
    "float16": ("bfloat16",),
    "bf16": ("bfloat16",),
    "fp32": ("float32",),
    "imagenet": ("imagenet2012",),
    "imagefolder": ("image_folder",),
    "data": ("data_dir",),
    "datapath": ("data_dir",),
    "resume": ("init_from",),
    "pretrained": ("init_from",),
    "latentlr": ("latent_learning_rate",),
    "latentwd": ("latent_weight_decay",),
    "relu": ("rprelu",),
    "hardtanh": ("hard_tanh",),
}


class UserError(ValueError):
    """A mistake in the input: a config field, a file, a data set, a workdir.

    The message is one line. It gives the value, the rule that the value breaks, and the way out. Commands print it and
    exit with status 2. In Python it is a `ValueError`.
    """


class RunFailed(RuntimeError):  # noqa: N818  ("failed run" is the usual term)
    """A failure of a run whose input is correct: a full disk, a loss that is not finite, a dead worker.

    The message is one line. It says what happened, which results are kept, and the way out. Commands print it and exit
    with status 3.
    """


def one_line(said: object, most: int | None = None) -> str:
    """Returns the text of `said` on one line, cut to `most` characters; for empty text, the type name of `said`."""
    return " ".join(str(said).split())[:most] or type(said).__name__


def unknown(what: str, value: object, names: Iterable[str], also: str = "") -> UserError:
    """Returns the error for a value that is not one of the allowed names. Its message suggests the nearest name.

    Args:
      what: what the value chooses, such as `"model"`.
      value: the wrong value.
      names: the allowed names.
      also: end of the message: what else is allowed.
    """
    names = list(names)
    near = _nearest(str(value), names)
    hint = f"did you mean {near!r}? " if near else ""
    return UserError(f"{what} is {value!r}, which does not exist; {hint}it must be one of: {', '.join(names)}{also}")


def _nearest(value: str, names: Sequence[str]) -> str | None:
    """Returns the name that `value` probably means: by `MEANINGS`, by a part of the name, or by spelling."""
    asked = _letters(value)
    for meant in MEANINGS.get(asked, ()):
        if meant in names:
            return meant
    parts = [name for name in names if len(asked) > 2 and (asked in _letters(name) or _letters(name) in asked)]
    if parts:
        return max(parts, key=lambda name: difflib.SequenceMatcher(None, asked, _letters(name)).ratio())
    return next(iter(difflib.get_close_matches(value, names, n=1)), None)


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def first_few(items: Sequence[Any], most: int, separator: str = "; ", name: Callable[[Any], str] = str) -> str:
    """Joins the first `most` of `items` for a message, and counts the rest: `a; b; and 3 more`."""
    more = f"{separator}and {len(items) - most} more" if len(items) > most else ""
    return separator.join(map(name, items[:most])) + more


def require(*modules: str, extra: str | None = None) -> None:
    """Raises UserError if one of `modules` is not installed. The message says what to type.

    Args:
      *modules: names to import. Without `extra`, the package to install has the name of the module.
      extra: name of the group of optional dependencies in setup.py that installs the modules.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            package = f"'recu_jax[{extra}]'" if extra else module
            raise UserError(f"{module} is not installed; type: pip install {package}")
