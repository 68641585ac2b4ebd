"""Reads the results of mutation testing, and lists the scores and the mutants that lived as Markdown."""

import json
import pathlib


def latest(results: pathlib.Path) -> dict[str, dict]:
    """Returns the last record of each mutant, by its name."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def markdown(records: dict[str, dict]) -> str:
    """Returns a table of the scores by room (targets.py), and a table of the mutants that lived, sorted by module."""
    rooms: dict[str, list[dict]] = {}
    for record in records.values():
        rooms.setdefault(record["room"], []).append(record)
    rows = ["| room | mutants | killed | score |", "|---|---|---|---|"]
    for room, found in [*sorted(rooms.items()), ("all", list(records.values()))]:
        killed = sum(record["status"] == "killed" for record in found)
        rows.append(f"| {room} | {len(found)} | {killed} | {killed / max(len(found), 1):.1%} |")
    lived = [record for record in records.values() if record["status"] == "lived"]
    rows += ["", "| lived | was | became |", "|---|---|---|"]
    for record in sorted(lived, key=lambda r: (r["module"], r["line"])):
        cells = [f"{record['module']}:{record['line']}", record["before"], record["after"] or "(removed)"]
        rows.append("| " + " | ".join(f"`{cell.replace('|', chr(92) + '|')}`" for cell in cells) + " |")
    return "\n".join(rows)
