"""Checks that public functions and methods annotate their arguments and results."""

import ast
import pathlib

import recu_jax

PACKAGE = pathlib.Path(recu_jax.__file__).parent


def is_public(name):
    return not name.startswith("_") or name in ("__init__", "__call__", "__iter__", "__next__", "__len__", "__enter__")


def untyped(body, within=""):
    for node in body:
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            yield from untyped(node.body, f"{within}{node.name}.")
        if not isinstance(node, ast.FunctionDef) or not is_public(node.name):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        lacking = [a.arg for a in arguments if a and a.annotation is None and a.arg not in ("self", "cls")]
        if lacking or (node.returns is None and node.name != "__init__"):
            yield f"{within}{node.name}({', '.join(lacking)})"


def test_public_signatures_are_typed():
    found = {
        str(file.relative_to(PACKAGE)): lacking
        for file in PACKAGE.rglob("*.py")
        if (lacking := list(untyped(ast.parse(file.read_text()).body)))
    }
    assert found == {}


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
