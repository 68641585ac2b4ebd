"""Tests requests to stop: sends real signals to this process. test_faults.py sends them to whole runs."""

import hashlib
import os
import queue
import signal
import threading
import time

import pytest

from recu_jax.training.stopping import Stopped, StopRequests


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda v: v.name)
def test_a_signal_waits_for_the_step_to_end(number, capsys):
    with StopRequests() as stop:
        stop.protect()
        assert not stop.due(1) and not stop.due_between_steps()
        send(number)
        assert stop.due(2) and stop.due_between_steps()
        assert stop.stopped.by == number.name
    assert capsys.readouterr().err == f"{number.name}: stopping after this step\n"


def test_with_nothing_to_save_a_signal_stops_at_once():
    with StopRequests(), pytest.raises(Stopped) as stopped:
        send(signal.SIGTERM)
    assert stopped.value.by == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda v: v.name)
def test_with_nothing_to_save_a_command_ends_while_c_code_runs(number):
    """Python calls handlers of signals only after the C code, for example XLA's, has returned."""
    ended = queue.Queue()
    with StopRequests(end_process=ended.put):
        threading.Timer(0.05, send, [number]).start()
        began = time.process_time()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # C code that runs for a second
        in_c = time.process_time() - began
        assert ended.get(timeout=0) == number.name
    assert in_c > 0.1


def test_a_stop_that_a_command_asked_for_is_not_raised():
    """An exception would be ignored where XLA calls Python, such as in a callback of the garbage collector."""
    ended = queue.Queue()
    with StopRequests(end_process=ended.put) as stop:
        send(signal.SIGTERM)
        assert ended.get(timeout=60) == "SIGTERM"
        stop.protect()
        send(signal.SIGTERM)
        assert stop.due(1) and ended.empty()


def test_a_second_control_c_stops_at_once():
    with StopRequests() as stop:
        stop.protect()
        send(signal.SIGINT)
        with pytest.raises(Stopped):
            send(signal.SIGINT)


def test_afterwards_signals_are_what_they_were():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with StopRequests():
        pass
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_no_handler_of_errors_takes_it_for_one():
    with pytest.raises(Stopped):
        try:
            raise Stopped("SIGTERM")
        except Exception:
            pytest.fail("a stop was taken for an error")


def test_outside_the_main_thread_nothing_is_asked_of_signals():
    seen = []

    def body():
        with StopRequests() as stop:
            seen.append(stop.due(1))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]
