"""The bench measures what it says."""

from __future__ import annotations

import json

import pytest

from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.evaluation.bench import STAGES, machine_description, run_bench


def test_small_bench_of_two_precisions_with_one_and_two_targets():
    settings = [EngineSettings(precision=precision) for precision in ("fp32", "int8")]
    reports = run_bench(frames=4, size=(160, 120), targets=(1, 2), settings=settings)
    assert [report.targets for report in reports] == [1, 2, 1, 2]
    assert [report.runs for report in reports] == [1, 1, 1, 2]  # int8 would share its scales
    assert ["int8" in report.engine for report in reports] == [False, False, True, True]
    for report in reports:
        assert tuple(report.stages) == STAGES
        for latency in report.stages.values():
            assert 0.0 < latency.p50 <= latency.p99 <= latency.max
        parts = sum(report.stages[stage].mean for stage in ("crop", "network", "decode"))
        assert report.stages["update"].mean == pytest.approx(parts, rel=1e-6)
        assert 0.0 < report.load_s < 60.0
        assert 10.0 < report.memory_before_mib <= report.memory_peak_mib
        assert report.memory_loaded_mib <= report.memory_peak_mib
        assert json.loads(json.dumps(report.as_dict()))["size"] == [160, 120]
    text = reports[1].as_text()
    assert "2 targets in 1 run of the network a frame" in text
    assert "update (whole)" in text


@pytest.mark.parametrize("arguments", [{"frames": 0}, {"targets": (1, 0)}, {"size": (10, 10)}, {"model": "nonsense"}])
def test_arguments_that_make_no_sense(arguments: dict):
    with pytest.raises(ValueError, match=r"at least|unknown"):
        run_bench(**{"frames": 1, **arguments})


def test_machine_description_names_the_versions():
    machine = machine_description()
    assert machine["cpu"]
    assert machine["usable_cores"] >= 1
    assert {"python", "numpy", "opencv", "ros2_tracker"} <= set(machine)
