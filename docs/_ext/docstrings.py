"""Converts Markdown in docstrings to reStructuredText, before napoleon reads their Google sections.

- An indented block after a blank line, at the top level of a docstring, becomes a code block.
- Rows of `|` cells become a table.
- `*` and `|` outside of backticks are escaped, except in **bold words** and bullets.
"""

import inspect
import re

from sphinx.domains.python import PyObject
from sphinx.ext.napoleon.docstring import GoogleDocstring

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Example|Examples|Note|Notes|References):$")
_FIELDS = ("param_dtype", "kernel_init", "bias_init", "alpha_init")
# Lines that are reStructuredText already, such as those that `_list_table` makes.
_GENERATED = re.compile(r"   \* - |     - | *\.\. | *:\w")
_RULE = re.compile(r"\|[-|: ]+\|$")


def convert(lines: list[str]) -> list[str]:
    """Converts the lines of a docstring."""
    return _programs(_tables(_single(_joined(lines))))


def _joined(lines):
    """Joins the names of arguments that share a description into one line, whatever its length."""
    found = []
    for line in lines:
        if found and re.fullmatch(r"  \S[\w, ]*,", found[-1]) and line.startswith("    "):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
    return found


def _plain(line):
    """Escapes what reStructuredText would take for markup."""
    bullet = re.match(r"\s*([*-] )?", line).group()
    parts = re.split(r"(`+[^`]+`+|\*\*\w[^*]*\*\*)", line[len(bullet) :])
    return bullet + "".join(
        re.sub(r"(?<!\\)([*|])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts)
    )


def _single(lines):
    """Repeats a shared description for each of its attributes, as napoleon does for arguments."""
    found, i, section = [], 0, ""
    while i < len(lines):
        line = lines[i]
        section = line if line and not line[0].isspace() else section
        names = re.match(r"  (\w+(?:, \w+)+): (.*)", line)
        i += 1
        if section != "Attributes:" or names is None:
            found.append(line)
            continue
        rest = []
        while i < len(lines) and lines[i].startswith("    "):
            rest.append(lines[i])
            i += 1
        for name in names[1].split(", "):
            found += [f"  {name}: {names[2]}", *rest]
    return found


def _tables(lines):
    found, i = [], 0
    while i < len(lines):
        rows = []
        while i < len(lines) and lines[i].startswith("|"):
            rows.append(lines[i])
            i += 1
        if len(rows) > 1 and _RULE.match(rows[1].strip()):
            found += _list_table([rows[0], *rows[2:]])
        else:
            found += rows  # text that begins with "|"
        if i < len(lines):
            found.append(lines[i])
            i += 1
    return found


def _list_table(rows):
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    width = max(map(len, cells))
    header = any(cells[0])
    table = ["", ".. list-table::", *(["   :header-rows: 1"] if header else []), ""]
    for row in cells if header else cells[1:]:
        padded = row + [""] * (width - len(row))
        table += [f"   {'* -' if j == 0 else '  -'} {_plain(cell)}".rstrip() for j, cell in enumerate(padded)]
    return [*table, ""]


def _programs(lines):
    found, i, top = [], 0, ""
    while i < len(lines):
        line = lines[i]
        if line and not line[0].isspace():
            top = line
        blank_before = i == 0 or not lines[i - 1].strip()
        starts = line.startswith("    ") and blank_before and not _SECTION.match(top) and not _is_item(top)
        if not starts or top.rstrip().endswith("::") or top.startswith(".."):
            found.append(line if _GENERATED.match(line) else _plain(line))
            i += 1
            continue
        block = []
        while i < len(lines) and (not lines[i].strip() or lines[i].startswith("    ")):
            block.append(lines[i][4:])
            i += 1
        while block and not block[-1].strip():
            block.pop()
        found += [".. code-block:: python", "", *(f"   {b}".rstrip() for b in block), ""]
    return found


def _is_item(line):
    return line.startswith(("- ", "* "))


def _process(app, what, name, obj, options, lines):
    del app, what, name, obj, options
    lines[:] = convert(lines)


def _signature(app, what, name, obj, options, signature, returned):
    """Writes defaults as in source code, and removes the parameters that Flax adds to every module."""
    del app, name, options
    if what == "class" and signature == "(*args, **kwargs)" and obj.__init__ is not object.__init__:
        # NNX's metaclass hides the signature.
        own = inspect.signature(obj.__init__)
        parameters = [p.replace(annotation=p.empty) for p in list(own.parameters.values())[1:]]
        signature = str(own.replace(parameters=parameters, return_annotation=own.empty))
    if signature is not None:
        signature = re.sub(r", parent=<.*?>, name=None|, parent=None, name=None", "", signature)
        signature = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", signature)
        signature = re.sub(r"<function (\w+)(?:\.<locals>\.\w+)?(?: at 0x\w+)?>", r"\1", signature)
    return signature, returned


def _skip(app, what, name, obj, skip, options):
    """Skips Flax's method `replace`, and `_FIELDS`, for which autodoc would show the docstrings of the defaults."""
    del app, obj, options
    return True if what == "class" and (name in _FIELDS or name == "replace") else skip


def _whole_returns(self, preprocess_types=False):
    """Keeps a Returns section as it is written. Napoleon would read the text before a colon as the type."""
    del preprocess_types
    return [("", "", self._dedent(self._consume_to_next_section()))]


def setup(app):
    """Registers the conversion before napoleon, whose priority is 500."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":  # "Variables" by default, which in Flax means another thing
            field.label = "Attributes"
    GoogleDocstring._consume_returns_section = _whole_returns
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
