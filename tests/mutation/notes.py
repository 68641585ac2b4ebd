"""Notes what each test executes, in a run without a mutant, and chooses the tests to run for a mutant."""

import collections
import hashlib
import json
import pathlib

from tests.mutation import targets
from tests.mutation.forks import Server
from tests.mutation.mutants import Mutant

# Limits on the total processor seconds of the tests of a mutant, as measured without a mutant. Tests that execute the
# changed statement are added up to a total of 60. Other tests that execute its module are added while the total of all
# these tests is at most 20. A statement that runs on import, such as a default, belongs to all tests of its module.
# Other tests of the room may read what such a statement defines. Of these, another 20 seconds are added.
_OF_STATEMENT, _OF_MODULE, _OF_ROOM = 60.0, 20.0, 20.0


class Notes:
    """Notes on what each test executes, kept in a file.

    The notes on a test file are made anew if the file, or a module that its tests execute, has changed.

    Args:
        root: the checkout whose tests run.
        folder: where the notes are kept.
    """

    def __init__(self, root: pathlib.Path, folder: pathlib.Path):
        self._root, self._folder = root, folder
        self._path = folder / "notes.json"
        self._of_files: dict[str, dict] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def fill(self, server: Server, files: list[str]):
        """Runs the test files that have no valid notes yet."""
        for file in files:
            known = self._of_files.get(file, {}).get("digests")
            if known and self._digests(known) == known:
                continue
            made = self._root.parent / "made.json"
            made.unlink(missing_ok=True)
            task = {"log": str(self._folder / "notes.log"), "notes": str(made), "tests": None, "result": "/dev/null"}
            status, seconds = server.run([file, "-m", "slow or not slow"], task, 3600, 6 * 3600)
            tests = json.loads(made.read_text()) if made.exists() else []
            failed = [test["test"] for test in tests if not test["passed"]]
            print(f"{file}: {len(tests)} tests in {seconds:.0f} s, left out: {failed}, status {status}", flush=True)
            executed = {module for test in tests for module in test["lines"]}
            self._of_files[file] = {
                "digests": self._digests([file, *executed]),
                "before": max(seconds - sum(test["seconds"] for test in tests), 0.0),
                "tests": [test for test in tests if test["passed"]],
            }
            self._path.write_text(json.dumps(self._of_files))

    def tests_for(self, mutant: Mutant, killers: collections.Counter) -> tuple[list[str], float]:
        """Returns the tests to run for a mutant, the likely killers first, and the seconds that they took without it.

        Tests that execute the changed statement come before those that execute only its module. The first tests of all
        functions come before the second tests of parametrized functions.

        Args:
            killers: how many mutants of the module each test function has killed.
        """
        found, of_room = [], []
        for file in targets.test_files(targets.room(mutant.module)):
            seen: collections.Counter = collections.Counter()
            for test in self._of_files.get(file, {"tests": []})["tests"]:
                executed = [] if file in targets.OF_ALL else test["lines"].get(mutant.module)
                if executed is None:
                    of_room.append((test["seconds"], file, test))
                    continue
                function = test["test"].partition("[")[0]
                of_module = not mutant.at_import and set(executed).isdisjoint(mutant.lines)
                place = seen[function, of_module]
                seen[function, of_module] += 1
                found.append(((of_module, place, -killers[function], test["seconds"]), file, test))
        chosen, total, files = [], 0.0, set()

        def add(file, test, most):
            nonlocal total
            cost = test["seconds"] + (0 if file in files else self._of_files[file]["before"])
            if total + cost <= most or not chosen:
                chosen.append(test["test"])
                files.add(file)
                total += cost

        for (of_module, *_), file, test in sorted(found, key=lambda entry: entry[0]):
            add(file, test, _OF_MODULE if of_module else _OF_STATEMENT)
        most = total + _OF_ROOM
        for _, file, test in sorted(of_room if mutant.at_import else [], key=lambda entry: entry[0]):
            add(file, test, most)
        return chosen, total

    def _digests(self, files):
        return {
            file: hashlib.sha256((self._root / file).read_bytes()).hexdigest()[:16]
            for file in sorted(files)
            if (self._root / file).exists()
        }
