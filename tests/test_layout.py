"""Checks the layout: few entries per folder, short files, no circular or upward imports, a test file per module."""

import ast
import pathlib

import pytest

import recu_jax
from tests.support import ROOT

PACKAGE = pathlib.Path(recu_jax.__file__).parent
TESTS = ROOT / "tests"
MOST_ENTRIES, MOST_LINES = 30, 300
# A room is a module or folder of recu_jax. A floor is a set of rooms that do not import each other. The lowest floor
# comes first, and a room imports only rooms of lower floors. Imports within functions count, too: `binary_layer`
# imports `nnx` in a function, so it is above `nnx`.
FLOORS = (
    {"errors", "atomic_write"},
    {"references", "paths", "networks"},
    {"ops"},
    {"functional"},
    {"binarizers"},
    {"layers"},
    {"nnx"},
    {"binary_layer"},
    {"tau"},
    {"schedules", "optimizers", "losses", "models", "data", "cost", "diagnostics"},
    {"config", "records"},
    {"report", "pytorch"},
    {"training"},
    {"deploy"},
    {"commands"},
    {"main"},
    {"__main__"},
)
# Each of these rooms has one test file for all its modules: `tests/test_ROOM.py`, or `tests/.../test_ROOM.py`.
TESTED_AS_A_WHOLE = {
    "cost",
    "functional",
    "layers",
    "models",
    "optimizers",
    "pytorch",
    "report",
    "training/checkpoint",
    "training/feed",
}


def modules():
    """Returns the path of each module's file, by the module's dotted name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file, names):
    """Yields (imported module of `names`, whether the import is within a function) for each import in a file."""
    tree = ast.parse(file.read_text())
    later = {
        node for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) for node in ast.walk(function)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            said = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by dots"
            # `from recu_jax.data import images` imports the module recu_jax.data.images. `from recu_jax.data import
            # Dataset` imports recu_jax.data.
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            said = [name if name in names else node.module for name in deeper]
        else:
            continue
        for name in set(said):
            if name in names:
                yield name, node in later


MODULES = modules()
IMPORTS = {name: sorted(set(imports(file, MODULES))) for name, file in MODULES.items()}


def room(name):
    return name.split(".")[1] if "." in name else None


def floor(name):
    (found,) = (i for i, rooms in enumerate(FLOORS) if room(name) in rooms)
    return found


def test_there_are_few_entries_and_short_files():
    # py.typed is an empty marker.
    entries = [p.name for p in PACKAGE.iterdir() if p.name not in ("__pycache__", "py.typed") and p.suffix != ".so"]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    kinds = {".py", ".pyi", ".cc", ".h", ".js", ".css", ".html"}
    texts = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix in kinds]
    long = {str(p.relative_to(PACKAGE)): n for p in texts if (n := len(p.read_text().splitlines())) > MOST_LINES}
    assert len(texts) > 100 and long == {}


def test_every_room_has_its_floor():
    assert sorted(room for rooms in FLOORS for room in rooms) == sorted({room(name) for name in MODULES} - {None})


def test_no_module_imports_itself_by_others():
    """Counts only imports that run when their module is imported. An import in a function may be circular."""
    # The graph has the modules that an import names. It leaves out the `__init__` of their packages, which runs, too.
    graph = {name: {other for other, later in found if not later and other != name} for name, found in IMPORTS.items()}
    circles, state = [], {}

    def visit(name, path):
        if state.get(name) == "open":
            circles.append([*path[path.index(name) :], name])
        elif name not in state:
            state[name] = "open"
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            state[name] = "done"

    for name in graph:
        visit(name, [])
    assert circles == []


def test_rooms_import_downwards():
    upwards = [
        f"{name} imports {other}"
        for name, found in IMPORTS.items()
        for other, _ in found
        if room(name) and room(other) and room(name) != room(other) and floor(other) >= floor(name)
    ]
    assert upwards == []
    # Only the package's own `__init__` has no room. It imports lazily, so any module may import it.
    assert [name for name in MODULES if room(name) is None] == ["recu_jax"] and IMPORTS["recu_jax"] == []


def test_dataclasses_are_frozen():
    """Steps, caches and processes share dataclasses, so none may change. Only `Span`, which plans C's buffer, may."""
    found = {}
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            for decorator in getattr(node, "decorator_list", []):
                if ast.unparse(decorator).startswith("dataclasses.dataclass"):
                    found[f"{name}.{node.name}"] = "frozen=True" in ast.unparse(decorator)
    assert len(found) > 40
    assert [name for name, frozen in found.items() if not frozen] == ["recu_jax.deploy.c.arena.Span"]


def test_imports_within_functions_are_few():
    """Such imports hide what a module needs. Each has its reason in a comment."""
    later = {(name, other) for name, found in IMPORTS.items() for other, inside in found if inside}
    assert len(later) <= 25, sorted(later)


@pytest.mark.parametrize("name", [n for n, file in MODULES.items() if file.name != "__init__.py"])
def test_every_module_has_its_test_file(name):
    *rooms, module = name.split(".")[1:]
    for depth in range(1, len(rooms) + 1):
        if "/".join(rooms[:depth]) in TESTED_AS_A_WHOLE:
            rooms, module = rooms[: depth - 1], rooms[depth - 1]
            break
    file = TESTS.joinpath(*rooms, f"test_{module.strip('_')}.py")
    assert file.is_file(), f"{name} has no test file {file.relative_to(ROOT)}"
    assert "def test_" in file.read_text()
