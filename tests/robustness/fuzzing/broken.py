"""Defines targets that fail at their fourth case, as no reader may fail. Tests check that `cases` notices."""

import os
import signal
import time


def _target(fail):
    def target(folder):
        numbers = iter(range(10**9))

        def read(data):
            if next(numbers) == 4:  # call 0 reads the sample, so call 4 is the fourth case
                fail()

        return [b"a sample of some bytes"], read

    return target


def _crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def _undeclared():
    raise KeyError("not declared")


def _memory():
    bytearray(64 << 30)


TARGETS = {
    "crashed": _target(_crash),
    "hung": _target(lambda: time.sleep(600)),
    "undeclared": _target(_undeclared),
    "too much memory": _target(_memory),
}
