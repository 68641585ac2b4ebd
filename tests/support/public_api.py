"""Lists the public names and their signatures. `python -m tests.support.public_api` writes the list to its file.

Public are the names that `recu_jax` re-exports, and in the modules that docs/api names all names without a leading
underscore. `__init__` and `__call__` are public, too. The list is made from the source and not by imports, so it is the
same with every version of JAX and Flax.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

from tests.support import ROOT

KEPT = ROOT / "tests" / "public_api.txt"


def listing() -> str:
    """Returns the list as text: a block for each module, and in it a line for each name."""
    pages = "".join(page.read_text() for page in sorted((ROOT / "docs" / "api").glob("*.md")))
    modules = sorted(set(re.findall(r"automodule:: ([\w.]+)", pages)))
    blocks = [["recu_jax", *_reexported(ROOT / "recu_jax" / "__init__.pyi")]]
    blocks += [[module, *_names(_file(module))] for module in modules]
    return "\n".join("\n    ".join(block) + "\n" for block in blocks)


def _file(module: str) -> pathlib.Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _reexported(stub: pathlib.Path) -> Iterator[str]:
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            source = ".".join(filter(None, ("recu_jax", node.module)))
            yield from (f"{alias.asname} from {source}" for alias in node.names)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node)


def _names(file: pathlib.Path) -> Iterator[str]:
    body = ast.parse(file.read_text()).body
    yield from _members(body)
    # `__all__` of a package also has names that its modules define.
    defined = {name for node in body for name in _defined(node)}
    for node in body:
        if isinstance(node, ast.Assign) and _defined(node) == ["__all__"]:
            yield from (name for name in sorted(ast.literal_eval(node.value)) if name not in defined)


def _members(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        for name in filter(_is_public, _defined(node)):
            if isinstance(node, ast.FunctionDef):
                kinds = [ast.unparse(d) for d in node.decorator_list if ast.unparse(d) in ("property", "classmethod")]
                result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
                yield " ".join([*kinds, f"{name}({ast.unparse(node.args)}){result}"])
            elif isinstance(node, ast.ClassDef):
                yield f"class {name}({', '.join(map(ast.unparse, node.bases))})"
                yield from (f"    {line}" for line in _members(node.body))
            else:
                # The list has a value unless it is long, such as the table of all models.
                default = ast.unparse(node.value) if node.value else ""
                kind = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
                yield f"{name}{kind}" + (f" = {default}" if 0 < len(default) <= 60 else "")


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


if __name__ == "__main__":
    KEPT.write_text(listing())
    print(KEPT)
