"""Loads and calls objects of a user's own modules. A config field names them as `"package.module:name"`."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from recu_jax.errors import UserError, one_line, unknown


def is_reference(name: object) -> bool:
    """Tells whether a name has the form `module:name`."""
    return isinstance(name, str) and ":" in name


def search(folder: str | os.PathLike) -> None:
    """Lets `load` also search `folder` for modules, after all other folders."""
    if os.fspath(folder) not in sys.path:
        sys.path.append(os.fspath(folder))


def load(what: str, reference: str) -> Any:
    """Imports the module of a reference and returns the object that it names.

    Modules in the working directory and beside the config file are found too. For a console script like `recu`, Python
    itself does not search the working directory.

    Args:
      what: what the object is, for the messages, such as `"model"`.
      reference: `"package.module:name"`.

    Raises:
      UserError: `reference` is not of this form, the module does not exist, its import raises an error, or it does not
        define the name.
    """
    module, _, name = reference.partition(":")
    if not module or not name or module.startswith("."):
        raise UserError(f"{what} is {reference!r}; it must be 'module:name', as in 'my_package.my_module:name'")
    search(os.getcwd())
    # Python caches which files a folder holds. Without this line, the import might miss a module that is newer
    # than the cache.
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # If the missing module is neither `module` nor a package above it, `module` imports it.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(what, reference, f"importing {module}", error) from error
        raise UserError(
            f"{what} is {reference!r}, and there is no module {error.name!r}; it must be in {os.getcwd()}, beside the "
            "config file, in a folder of PYTHONPATH, or installed"
        ) from error
    except (Exception, SystemExit) as error:  # the module may be a script that calls sys.exit
        raise _failed(what, reference, f"importing {module}", error) from error
    if not hasattr(found, name):
        names = [n for n, value in vars(found).items() if not n.startswith("_") and not _imported(value, module)]
        raise unknown(f"{what} is {reference!r}, and the name in {module}", name, names)
    return getattr(found, name)


def _imported(value, module):
    named = inspect.isclass(value) or inspect.isroutine(value)
    return inspect.ismodule(value) or (named and value.__module__ != module)


def call(
    what: str, reference: str, function: Callable[..., Any], *args: Any, doing: str = "its call", **kwargs: Any
) -> Any:
    """Calls an object that a reference names, and returns the result.

    Args:
      what, reference: as in `load`.
      function: the object, or a function that uses it.
      *args, **kwargs: arguments of the call.
      doing: name of the call in the error message, such as "its evaluation". The message goes on with "fails".

    Raises:
      UserError: the call raised an exception.
    """
    try:
        return function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        raise _failed(what, reference, doing, error) from error


def _failed(what: str, reference: str, doing: str, error: BaseException) -> UserError:
    return UserError(f"{what} is {reference!r}, and {doing} fails: {type(error).__name__}: {one_line(error, 300)}")
