"""Parses the flags `--config=FILE`, which names the experiment, and `--config.FIELD=VALUE`, which changes a field."""

import dataclasses
import pathlib
import re
import sys

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from recu_jax.commands.arguments import fail, help_text
from recu_jax.config import base_config
from recu_jax.config.fields import field_lines
from recu_jax.config.files import find, search_beside, shipped, without_bytecode
from recu_jax.errors import UserError, one_line, unknown

_NAMES = ("--config", "-config")


def define() -> flags.FlagHolder:
    """Defines `--config`."""
    return config_flags.DEFINE_config_file("config", None, "The experiment: a file with get_config().")


@dataclasses.dataclass(frozen=True)
class Help:
    """The `--help` of a command that takes a config.

    Attributes:
      usage: as for `commands.arguments.help_text`.
      about: as for `commands.arguments.help_text`.
      example: as for `commands.arguments.help_text`.
      of_a_run: as for `commands.arguments.help_text`.
      own_flags: names of the command's flags other than `--config`.
    """

    usage: str
    about: str
    example: str
    of_a_run: bool = False
    own_flags: tuple[str, ...] = ()

    def text(self) -> str:
        """Makes the text of `--help`. It lists the flags, and every field of the config with its default."""
        about = {"config": "the experiment: a file with get_config(), or one of: " + ", ".join(shipped())}
        about |= {name: flags.FLAGS[name].help or "" for name in self.own_flags}
        listed = [f"  --{name:<14} {text}" for name, text in about.items()]
        fields = [f"  --config.{line}" for line in field_lines()]
        options = "\n".join(["options:", *listed, "", "fields of the config, with their defaults:", *fields])
        return help_text(self.usage, self.about, options, self.example, self.of_a_run)


def parse(argv: list[str], help_of: Help) -> list[str]:
    """Parses the command line with absl. If it is invalid, prints one line and ends the process.

    `--help` prints `help_of` and ends the process with status 0.

    Args:
      argv: the command line. Its first entry is the program's name.
      help_of: the help of the command.

    Returns:
      A list that holds only the program's name. Any other argument that is not a flag is an error.
    """
    if any(argument in ("--help", "-h", "-help", "--helpfull", "--helpshort") for argument in argv[1:]):
        print(help_of.text())
        sys.exit(0)
    logging.set_verbosity(logging.ERROR)  # ml_collections logs warnings about errors that this function also prints
    path = _config_path(argv)
    try:
        with without_bytecode():
            rest = flags.FLAGS(_with_found_config(argv))
        _check_loaded(path)
        _read_none(flags.FLAGS["config"].value)
        search_beside(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0])
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
    except (Exception, SystemExit) as error:  # the config file is a program and may raise any exception
        fail(_field_error(argv, path, error))
    return rest


def _config_path(argv: list[str]) -> str | None:
    """Finds the path of `--config` in `argv`. Absl's flag does not give the path before the file is loaded."""
    for argument, after in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, path = argument.partition("=")
        if name in _NAMES:
            return path if equals else after
    return None


def _with_found_config(argv: list[str]) -> list[str]:
    """Replaces the config's path in `argv` by the path that `find` returns."""
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
    """Checks that the config file loaded.

    Raises:
      UserError: `--config` is not set, or `get_config` did not return a config.
      Exception: any exception that the config file raised while it was loaded.
    """
    value = flags.FLAGS["config"].value
    if path is None:
        raise UserError("--config is not set; give an experiment, such as --config=configs/digits.py")
    if not isinstance(value, ConfigDict):
        getattr(value, "if the file did not load, its exception is raised here", None)
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise UserError(
            f"--config={path}: get_config() returns {kind}; it must return recu_jax.config.base_config(), with fields "
            "changed"
        )


def _read_none(config: ConfigDict) -> None:
    """Replaces the text "None" by None in the fields whose default is None.

    ml_collections reads `--config.FIELD=None` as the text "None".
    """
    for name, default in base_config().items():
        if default is None and config.get(name) == "None":
            config[name] = None


def _flag_error(error: flags.Error) -> str:
    """Returns the last line of absl's message, with a hint if it names a config field as a flag.

    The lines before it may be the traceback of a config file.
    """
    line = str(error).strip().splitlines()[-1].removeprefix("FATAL Flags parsing error:").strip()
    name = re.search(r"Unknown command line flag '(\w+)'", line)
    if name and name[1] in base_config():
        line += f"; it is a field of the config: --config.{name[1]}=VALUE"
    return re.sub(r"^[\w.]+\.UserError: ", "", line)


def _field_error(argv: list[str], path: str | None, error: BaseException) -> object:
    """Makes the message for an exception that the config file or a `--config.FIELD=VALUE` caused."""
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
    """Returns the default of `--workdir`.

    The default is `runs/NAME` for `--config=.../NAME.py`, and `runs/NAME_PART` for `--config=.../NAME.py:PART`.
    """
    file = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    part = config_flags.get_config_filename(flags.FLAGS["config"]).partition(".py:")[2]
    return str(pathlib.Path("runs") / (f"{file.stem}_{part}" if part else file.stem))
