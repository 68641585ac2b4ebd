"""A plugin of pytest for mutation testing: notes what each test executes, or runs chosen tests in a given order.

The task is JSON in the environment variable RECU_MUTATION_TASK, with the keys
    log: file of pytest's output;
    notes: file to write what each test executes to, or null;
    tests: names of the tests to run, in their order, or null for all;
    result: file to write the first failure to.
"""

import json
import os
import pathlib
import sys
import time

_TASK = json.loads(os.environ["RECU_MUTATION_TASK"])
_PACKAGE = os.path.join(os.getcwd(), "recu_jax") + os.sep
_TOOL = 3
_lines: set[tuple[str, int]] = set()
_began: dict[str, float] = {}
_failed: set[str] = set()
_notes: list[dict] = []


def pytest_configure():
    if _TASK["notes"]:
        sys.monitoring.use_tool_id(_TOOL, "recu_jax mutation")
        sys.monitoring.register_callback(_TOOL, sys.monitoring.events.LINE, _line)
        sys.monitoring.set_events(_TOOL, sys.monitoring.events.LINE)


def _line(code, line):
    if code.co_filename.startswith(_PACKAGE):
        _lines.add((code.co_filename, line))
    return sys.monitoring.DISABLE


def pytest_collection_modifyitems(items):
    if _TASK["tests"] is not None:
        place = {name: i for i, name in enumerate(_TASK["tests"])}
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])


def pytest_runtest_logstart(nodeid):
    # Lines that ran between two tests ran during imports. They belong to no test.
    _lines.clear()
    _began[nodeid] = time.process_time()
    if _TASK["notes"]:
        sys.monitoring.restart_events()


def pytest_runtest_logreport(report):
    if report.outcome != "passed":  # a skipped test notices nothing
        _failed.add(report.nodeid)
    if report.failed and not os.path.exists(_TASK["result"]):
        lines = str(report.longrepr).splitlines()
        reason = next((line for line in lines if line.startswith("E ")), lines[-1] if lines else "")
        _write(_TASK["result"], {"test": report.nodeid, "reason": reason[:200]})


def pytest_runtest_logfinish(nodeid):
    executed: dict[str, list[int]] = {}
    for file, line in sorted(_lines):
        executed.setdefault(os.path.relpath(file), []).append(line)
    seconds = round(time.process_time() - _began[nodeid], 3)
    _notes.append({"test": nodeid, "passed": nodeid not in _failed, "seconds": seconds, "lines": executed})


def pytest_sessionfinish():
    if _TASK["notes"]:
        _write(_TASK["notes"], _notes)


def _write(path, value):
    pathlib.Path(path).write_text(json.dumps(value))
