"""Tests how a trace of a GPU is summed up, on events with known times."""

import pytest

from experiments.benchmarks.gpu_profile import busy, summary

# Name, start and end in nanoseconds, sorted by start. The second and third overlap.
EVENTS = [("conv", 0, 4_000_000), ("add", 5_000_000, 6_000_000), ("conv", 5_500_000, 7_000_000)]


def test_time_with_a_kernel_counts_overlaps_once():
    assert busy(EVENTS) == 6_000_000
    assert busy([("long", 0, 10), ("within", 2, 3), ("after", 12, 13)]) == 11


def test_a_record_is_of_one_step():
    record = summary(EVENTS, 2)
    assert record["kernels_a_step"] == 1.5
    assert record["milliseconds_a_step"] == pytest.approx(3.5)
    assert record["busy_milliseconds_a_step"] == pytest.approx(3.0)
    assert record["kernels"] == [
        {"kernel": "conv", "times_a_step": 1.0, "milliseconds": pytest.approx(2.75)},
        {"kernel": "add", "times_a_step": 0.5, "milliseconds": pytest.approx(0.5)},
    ]


def test_a_trace_without_kernels():
    assert summary([], 1)["milliseconds_a_step"] == 0
