"""`--config=FILE` of the command lines: the experiment, and its fields as `--config.FIELD=VALUE`."""

import pathlib
import re

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from recu_jax.command_line import fail
from recu_jax.config import base_config
from recu_jax.config_file import find, shipped
from recu_jax.errors import UserError, one_line, unknown

_NAMES = ("--config", "-config")


def define() -> flags.FlagHolder:
    """Defines `--config`."""
    return config_flags.DEFINE_config_file("config", None, "The experiment: a file with get_config().")


def parse(argv: list[str]) -> list[str]:
    """absl's parsing, with each of its errors as one line."""
    logging.set_verbosity(logging.ERROR)  # ml_collections warns of what is refused here
    path = _config_path(argv)
    try:
        rest = flags.FLAGS(_with_found_config(argv))
        _check_loaded(path)
        if len(rest) > 1:
            raise UserError(f"{rest[1]!r} is not a flag; options are given as --name=value")
    except UserError as error:
        fail(error)
    except flags.Error as error:
        fail(_flag_error(error))
    except OSError:
        fail(
            f"--config={path} does not exist or is not readable; give the path of a file with get_config(), or one of: "
            f"{', '.join(shipped())}"
        )
    except (Exception, SystemExit) as error:  # whatever the config file itself raises, too
        fail(_field_error(argv, path, error))
    return rest


def _config_path(argv: list[str]) -> str | None:
    """Asked of the command line: absl's flag does not know before it has loaded the file."""
    for argument, after in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, path = argument.partition("=")
        if name in _NAMES:
            return path if equals else after
    return None


def _with_found_config(argv: list[str]) -> list[str]:
    """`argv` with the config's path as `find` gives it."""
    found, is_path = [], False
    for argument in argv:
        name, equals, path = argument.partition("=")
        if is_path:
            argument = find(argument)
        elif name in _NAMES and equals:
            argument = f"{name}={find(path)}"
        is_path = argument in _NAMES
        found.append(argument)
    return found


def _check_loaded(path: str | None) -> None:
    """Raises what the config file raised, if it did not load, or UserError if it gave no config."""
    value = flags.FLAGS["config"].value
    if path is None:
        raise UserError("--config is not set; give an experiment, such as --config=configs/digits.py")
    if not isinstance(value, ConfigDict):
        getattr(value, "a file that did not load raises what it met on first use", None)
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise UserError(
            f"--config={path}: get_config() returns {kind}; it must return recu_jax.config.base_config(), with fields "
            "changed"
        )


def _flag_error(error: flags.Error) -> str:
    """One line of absl's message: the last one, where it carries a config file's traceback."""
    line = str(error).strip().splitlines()[-1].removeprefix("FATAL Flags parsing error:").strip()
    name = re.search(r"Unknown command line flag '(\w+)'", line)
    if name and name[1] in base_config():
        line += f"; it is a field of the config: --config.{name[1]}=VALUE"
    return re.sub(r"^[\w.]+\.UserError: ", "", line)


def _field_error(argv: list[str], path: str | None, error: BaseException) -> object:
    """What is wrong with a `--config.FIELD=VALUE`: an unknown field, or a value that the field cannot take."""
    prefix = "--config."
    names = [argument.removeprefix(prefix).split("=")[0] for argument in argv if argument.startswith(prefix)]
    for name in names:
        if name not in base_config():
            return unknown("--config field", name, base_config())
    misspelt = re.match(r"['\"]*Key \"(\w+)\" does not exist", str(error))
    if misspelt:
        return f"--config={path}: {unknown('config field', misspelt[1], base_config())}"
    where = " with ".join([f"--config={path}", *(prefix + name for name in names)])
    return f"{where}: {type(error).__name__}: {one_line(error)}"


def default_workdir() -> str:
    """runs/NAME for --config=.../NAME.py, runs/NAME_PART for --config=.../NAME.py:PART."""
    file = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    part = config_flags.get_config_filename(flags.FLAGS["config"]).partition(".py:")[2]
    return str(pathlib.Path("runs") / (f"{file.stem}_{part}" if part else file.stem))
