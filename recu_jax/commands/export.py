"""`recu export` writes a run's best checkpoint to a file."""

from collections.abc import Sequence

from recu_jax.commands.arguments import ArgumentParser, local_path, run, run_path
from recu_jax.deploy import trained
from recu_jax.deploy.formats import FORMATS
from recu_jax.ops import backend

_ABOUT = "Writes a run's best checkpoint to a file."
_FORMATS = "\n".join(f"{name}: {kind.about}" for name, kind in FORMATS.items())
_CHECK = """run the test set through the trained model and through the file, say what differs and how fast
each of them is, and write that to FILE.check.json"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the arguments and writes the file. With `--check`, compares the file with the trained model."""
    parser = ArgumentParser("export", _ABOUT, "recu export runs/digits --out=digits.recu --check")
    parser.add_argument("workdir", metavar="WORKDIR", type=run_path, help="folder of a run")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        type=local_path,
        help="file to write, or folder with --format=c; existing files are replaced",
    )
    parser.add_argument("--format", choices=FORMATS, default="recu", help=f"default: recu\n{_FORMATS}")
    parser.add_argument("--check", action="store_true", help=_CHECK)
    parser.add_argument(
        "--dataset", metavar="NAME", help="data set of --check, or of imported weights; default: that of the run"
    )
    parser.add_argument("--data_dir", metavar="DIR", type=local_path, help="its folder or file; default: as in the run")
    args = parser.parse_args(argv)
    backend.set_xla_flags()
    run(lambda: _main(args))


def _main(args) -> None:
    network = trained.read_trained(args.workdir, args.dataset, args.data_dir)
    if args.check:
        # If the check cannot run, the command ends here, before it writes the file.
        FORMATS[args.format].require_runner()
        network.load_test()
    print(trained.write(network, args.out, args.format), flush=True)
    if args.check:
        from recu_jax.deploy.check import check

        print(check(network, args.out, args.format))
