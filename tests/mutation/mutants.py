"""Lists the mutants of a module, made by the operators of cosmic-ray, and draws a sample of them."""

import ast
import dataclasses
import math
import random
import re
import warnings

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.provider import OperatorProvider

from tests.support import ROOT

# Operators that need the name of a variable, which a person would have to choose.
_NEED_ARGUMENTS = {"VariableReplacer", "VariableInserter"}
# Operators that change no result: `is` and `==` agree on what this code compares, and `+1` is `1`.
_EQUIVALENT = re.compile(r"Comparison.*_(Is_Eq|Eq_Is|IsNot_NotEq|NotEq_IsNot)$|UnaryOperator_UAdd")
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        module: path of the module, relative to the root of the repository.
        line, column: where the change is; the first line is 1, the first column 0.
        lines: the lines of the innermost statement that holds the change. Of a compound statement, only the header.
        at_import: whether the statement runs when the module is imported.
        operator: name of cosmic-ray's operator.
        before, after: the changed line as it was, and as it is in the mutant.
        code: the whole mutated module.
    """

    module: str
    line: int
    column: int
    lines: tuple[int, ...]
    at_import: bool
    operator: str
    before: str
    after: str
    code: str = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """The module, the line before and after the change, and the column. It is the same at another line number."""
        return f"{self.module}:{self.before} -> {self.after} @{self.column}"


def sample(module: str, share: float, seed: int) -> list[Mutant]:
    """Draws a share of the places of a module that an operator can change, and one mutant for each of them.

    The draw depends only on `seed` and on the module's path and text. Changes in other modules do not affect it.
    """
    text = (ROOT / module).read_text()
    tree = ast.parse(text)
    places = _places(text, tree)
    draw = random.Random(f"{seed} {module}")
    chosen = sorted(draw.sample(sorted(places), math.ceil(min(share, 1) * len(places))))
    found = [_mutant(module, text, tree, place, draw.sample(places[place], len(places[place]))) for place in chosen]
    return [mutant for mutant in found if mutant]


def _places(text, tree):
    """Returns {(line, column): [(operator, occurrence)]} for the places that are not left out."""
    operators = OperatorProvider()
    left_out = _left_out(tree)
    nodes = list(ast_nodes(get_ast(text)))
    places = {}
    for name in operators:
        if name in _NEED_ARGUMENTS or _EQUIVALENT.search(name):
            continue
        positions = [start for node in nodes for start, _ in operators[name]().mutation_positions(node)]
        for occurrence, start in enumerate(positions):
            if not any(first <= start < last for first, last in left_out):
                places.setdefault(start, []).append((name, occurrence))
    return places


def _left_out(tree):
    """Returns spans that no mutant changes, ((line, column), end): types, f-strings, `raise`, `__repr__`, `__str__`."""
    spans = []
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            spans += [argument.annotation for argument in every if argument] + [node.returns]
            if node.name in ("__repr__", "__str__"):
                spans.append(node)
        elif isinstance(node, ast.AnnAssign):
            spans.append(node.annotation)
        elif isinstance(node, ast.Raise | ast.JoinedStr):
            spans.append(node)
        elif isinstance(node, ast.Module):
            spans += [s for s in node.body if isinstance(s, ast.Assign) and _is_union(s.value)]
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in spans if n]


def _is_union(value):
    """Returns whether an expression is a type such as `jax.Array | float`."""
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)


def _mutant(module, text, tree, place, choices):
    """Returns the mutant of the first of `choices` that changes the code into code that compiles, or None."""
    for name, occurrence in choices:
        code = mutate_code(text, OperatorProvider()[name](), occurrence)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # about `is` with a number
                mutated = ast.parse(code)
                compile(mutated, module, "exec")
        except (SyntaxError, TypeError):
            continue
        # The star between parameters is no product, so a mutant that changes or removes it is left out.
        if ast.dump(mutated) != ast.dump(tree) and _signatures(mutated) == _signatures(tree):
            lines, at_import = _statement(tree, place[0])
            return Mutant(module, *place, lines, at_import, name, *_difference(text, code), code)
    return None


def _signatures(tree):
    """Returns how many parameters of each kind each function has."""
    found = [node.args for node in ast.walk(tree) if isinstance(node, _FUNCTIONS | ast.Lambda)]
    return [(len(a.posonlyargs), len(a.args), len(a.kwonlyargs)) for a in found]


def _difference(text, code):
    """Returns the first line that differs, from both texts.

    If the mutant lacks a decorator, returns the decorator with the line after it, and "".
    """
    # Without a decorator, the blank lines before it are gone too.
    lines, others = ([line for line in t.splitlines() if line.strip()] for t in (text, code))
    for i, (line, other) in enumerate(zip(lines, others, strict=False)):
        if line != other:
            if len(lines) == len(others):
                return line.strip(), other.strip()
            return f"{line.strip()} {lines[i + 1].strip()}", ""
    raise ValueError("the texts do not differ")


def _statement(tree, line):
    """Returns (lines of the innermost statement at a line, whether it runs on import)."""
    lines, at_import = (line,), True

    def look(body, within):
        nonlocal lines, at_import
        for node in body:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            if not first <= line <= node.end_lineno:
                continue
            inner = [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
            last = min([child.lineno for child in inner], default=node.end_lineno + 1)
            header = range(first, max(last, first + 1))
            if line in header:
                lines, at_import = tuple(header), not within
            else:
                lines, at_import = (line,), not within
                look(
                    [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
                    + [s for child in ast.iter_child_nodes(node) for s in _statements_of(child)],
                    within or isinstance(node, _FUNCTIONS),
                )

    look(tree.body, False)
    return lines, at_import


def _statements_of(node):
    """Returns the statements of an `except` or a `case`, and [] for other nodes."""
    return node.body if isinstance(node, ast.ExceptHandler | ast.match_case) else []
