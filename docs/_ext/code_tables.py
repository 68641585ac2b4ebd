"""Makes tables from the code: fields of the config, exit statuses, commands, models, public names."""

import ast
import functools
import pathlib

from sphinx.util.docutils import SphinxDirective

# Marks a field that a resumed run may change.
_FREE = "\N{NO-BREAK SPACE}{sup}`r`"


def _code(value):
    return f"`{value}`"


def _values(name):
    from recu_jax.config import rules

    if name in rules.CHOICES:
        return ", ".join(_code(choice) for choice in rules.CHOICES[name])
    if name in rules.RANGES:
        least, most = rules.RANGES[name]
        return f"at least {least}" if most is None else f"{least} to {most}"
    return ""


def _kind(field):
    if field.kind is not None:
        return {str: "a text", int: "a whole number", float: "a number"}[field.kind]
    return {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}[
        type(field.default)
    ]


def config_fields() -> str:
    """Returns one table for each section of the config, as Markdown."""
    from recu_jax.config.fields import FIELDS

    parts = []
    for section, fields in FIELDS.items():
        rows = [
            f"| `{f.name}`{_FREE if f.free else ''} | `{f.default!r}` | {f.about} | {_values(f.name) or _kind(f)} |"
            for f in fields
        ]
        head = "| field | default | what it is | values |\n|---|---|---|---|"
        parts.append(f"## {section}\n\n:::{{table}}\n:class: fields\n\n{head}\n" + "\n".join(rows) + "\n:::\n")
    return "\n".join(parts)


def exit_statuses() -> str:
    """Returns the table of exit statuses: those of all commands, then those of `train` and `eval` alone."""
    from recu_jax.commands.arguments import EXIT_STATUSES, RUN_EXIT_STATUSES

    rows = [f"| {status} | {meaning} | all |" for status, meaning in EXIT_STATUSES.items()]
    rows += [f"| {status} | {meaning} | `train`, `eval` |" for status, meaning in RUN_EXIT_STATUSES.items()]
    return "| status | meaning | commands |\n|---|---|---|\n" + "\n".join(rows)


def commands() -> str:
    """Returns the table of commands, as `recu --help` lists them."""
    from recu_jax.__main__ import COMMANDS

    rows = [f"| `recu {name}` | {about} |" for name, (_, about) in COMMANDS.items()]
    return "| command | what it does |\n|---|---|\n" + "\n".join(rows)


def model_sizes() -> str:
    """Returns the table of models: parameters and size of each, counted by `recu_jax.model_cost`."""
    import jax

    from recu_jax import create_model, layers, model_cost
    from recu_jax.models import FULL_PRECISION, MODELS

    rows = []
    for name in MODELS:
        side, classes = (224, 1000) if not name.startswith(("cifar", "digits")) else (32, 10)
        side, channels = (8, 1) if name.startswith("digits") else (side, 3)
        parts = {"conv": layers.Conv} if name in FULL_PRECISION else {}
        image = jax.ShapeDtypeStruct((1, side, side, channels), "float32")
        cost = model_cost(create_model(name, classes, **parts), image)
        rows.append(
            f"| `{name}` | {side}x{side} | {cost.parameters:,} | {100 * cost.binary_share_of_parameters:.1f}% | "
            f"{cost.bytes / 2**20:.2f} MiB | {cost.compression:.1f} |"
        )
    head = "| model | images | parameters | of 1 bit | size | times smaller than float32 |\n|---|---|--:|--:|--:|--:|"
    return head + "\n" + "\n".join(rows)


@functools.cache
def _stub():
    """Returns the names that `recu_jax` imports, by the submodule that they come from."""
    stub = pathlib.Path(__file__).parents[2] / "recu_jax" / "__init__.pyi"
    where: dict[str, list[str]] = {}
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            where.setdefault(node.module, []).extend(alias.name for alias in node.names)
    return where


def _from_root(app, env, node, contnode):
    """Links `recu_jax.NAME` to the page of the submodule that describes NAME."""
    name = node.get("reftarget", "").removeprefix("recu_jax.")
    for module, names in _stub().items():
        if name in names:
            target = f"recu_jax.{module}.{name}"
            return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)
    return None


def public_names() -> str:
    """Returns the table of the names in `recu_jax`, each a link to its description."""
    rows = []
    for module, names in _stub().items():
        links = ", ".join(f"{{py:obj}}`~recu_jax.{module}.{name}`" for name in names)
        rows.append(f"| `recu_jax.{module}` | {links} |")
    return "| from | names |\n|---|---|\n" + "\n".join(rows)


class _FromCode(SphinxDirective):
    """Inserts the Markdown that the function NAME of this module returns: `{from-code} NAME`."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0].replace("-", "_")
        return self.parse_text_to_nodes(globals()[name](), allow_section_headings=True)


def setup(app):
    """Registers the directive, and `_from_root` for links that Sphinx cannot resolve."""
    app.add_directive("from-code", _FromCode)
    app.connect("missing-reference", _from_root)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
