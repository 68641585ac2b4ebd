"""Makes Markdown tables."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]], names: int = 1) -> str:
    """Returns a table. Its first `names` columns are text; the other columns are numbers, aligned to the right."""
    lines = [header, ["---"] * names + ["--:"] * (len(header) - names), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
