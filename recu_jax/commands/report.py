"""`recu report` writes an HTML page about a run, or one page that compares several runs."""

import pathlib
from collections.abc import Sequence

from recu_jax import paths
from recu_jax.atomic_write import atomic_write
from recu_jax.commands.arguments import ArgumentParser, local_path, run, run_path
from recu_jax.errors import UserError
from recu_jax.report.live import FILE
from recu_jax.report.page import render
from recu_jax.report.runs import names, read_run

_ABOUT = "Writes the page of a run, or one page that compares several runs. A browser shows it without the internet."


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the arguments and writes the page."""
    parser = ArgumentParser("report", _ABOUT, "recu report runs/digits runs/another")
    parser.add_argument("workdirs", metavar="WORKDIR", type=run_path, nargs="+", help="folder of a run")
    parser.add_argument(
        "--out", metavar="FILE", type=local_path, help=f"default: WORKDIR/{FILE} for one run, ./{FILE} for several"
    )
    args = parser.parse_args(argv)
    run(lambda: _main(args.workdirs, args.out))


def _main(workdirs, out):
    called, workdirs = names(workdirs), [_fetched(workdir) for workdir in workdirs]
    runs = [read_run(workdir, name) for workdir, name in zip(workdirs, called, strict=True)]
    out = pathlib.Path(out or (pathlib.Path(workdirs[0]) / FILE if len(workdirs) == 1 else FILE))
    page = render(runs)
    try:
        with atomic_write(out) as file:
            file.write(page)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}; give another --out") from error
    print(out)


def _fetched(workdir):
    if not paths.in_bucket(workdir):
        return workdir
    # This imports Orbax, which the report of a local folder does not need.
    from recu_jax.training import bucket

    return bucket.fetched(workdir)
