"""The bench measures what it says."""

from __future__ import annotations

import json

import pytest

from ros2_tracker.evaluation.bench import STAGES, machine_description, run_bench


def test_small_bench_with_two_targets():
    report = run_bench(frames=4, size=(160, 120), targets=2)
    assert set(report.stages) == set(STAGES)
    for latency in [*report.stages.values(), report.frame]:
        assert 0.0 < latency.p50 <= latency.p99 <= latency.max
    update = report.stages["update"]
    assert report.stages["network"].p50 < update.max
    assert report.frame.mean == pytest.approx(2 * update.mean, rel=0.05)
    assert 0.0 < report.load_s < 60.0
    assert 10.0 < report.memory_before_mib <= report.memory_peak_mib
    assert report.memory_loaded_mib <= report.memory_peak_mib
    assert json.loads(json.dumps(report.as_dict()))["size"] == [160, 120]
    text = report.as_text()
    assert "frame (2 targets)" in text
    assert "update (whole)" in text


@pytest.mark.parametrize("arguments", [{"frames": 0}, {"targets": 0}, {"size": (10, 10)}, {"model": "nonsense"}])
def test_arguments_that_make_no_sense(arguments: dict):
    with pytest.raises(ValueError, match=r"at least|unknown"):
        run_bench(**{"frames": 1, **arguments})


def test_machine_description_names_the_versions():
    machine = machine_description()
    assert machine["cpu"]
    assert machine["usable_cores"] >= 1
    assert {"python", "numpy", "opencv", "ros2_tracker"} <= set(machine)
