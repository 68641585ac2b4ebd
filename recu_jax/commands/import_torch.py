"""`recu import-torch` makes a workdir from a PyTorch checkpoint."""

from collections.abc import Sequence

import jax

from recu_jax.commands.arguments import ArgumentParser, local_path, run
from recu_jax.models import MODELS
from recu_jax.pytorch.names import CONVS
from recu_jax.training.pretrained import import_torch_file

_ABOUT = """Makes a workdir from a PyTorch checkpoint. `recu eval` evaluates it, and other runs start from it with
--config.init_from=DIR."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the arguments, makes the workdir, and prints a line about its contents."""
    example = "recu import-torch model_best.pth.tar --model=cifar_resnet20 --workdir=runs/official"
    parser = ArgumentParser("import-torch", _ABOUT, example)
    parser.add_argument(
        "file",
        metavar="FILE",
        type=local_path,
        help="a file of torch.save with a state_dict, or *.safetensors",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help=f"one of: {', '.join(sorted(MODELS))}")
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", type=local_path, help="folder to make; must not hold checkpoints"
    )
    parser.add_argument("--conv", choices=CONVS, default="binary", help="float: the twin with real weights, no alpha")
    parser.add_argument("--key", metavar="NAME", help="entry of the file that holds the weights, if several do")
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # this command computes nothing, so it needs no accelerator
    made = run(lambda: import_torch_file(args.file, args.model, args.workdir, args.conv, args.key))
    said = [f"entry {made['key']!r}"] if made["key"] not in (None, "state_dict") else []
    said += [f"names without their prefix {made['prefix']!r}"] if made["prefix"] else []
    said += [f"epoch {made['epoch']}"] if made["epoch"] is not None else []
    said += [f"best top-1 {made['best_prec1']:.2f}%"] if made["best_prec1"] is not None else []
    print(
        f"{args.workdir} holds {args.model} (conv={made['conv']}), {made['parameters']} parameters from {args.file}"
        + (f" ({', '.join(said)})" if said else "")
    )
