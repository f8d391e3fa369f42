"""Engines built ahead of time, with the real builder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ros2_tracker.cli import main
from ros2_tracker.engines.cache import EngineCache


def test_engine_is_built_once_and_then_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX builds engines without a GPU")
    command = ["build-engine", "--without-gpu", "--cache-dir", str(tmp_path / "engines")]
    lines = []
    for _ in range(2):
        assert main(command) == 0
        lines += capsys.readouterr().out.splitlines()
    pattern = (
        r"(\S+/multistage-tiny(?:-template)?-fp16-b(\d)-[0-9a-f]{16}\.engine): (\S+) MiB, (\S+) s, "
        r"not tested: there was no GPU"
    )
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found)
    # The shipped graph takes any number of targets: one engine for one of them, one for several, and the template's.
    assert [each[2] for each in found] == ["1", "4", "1"] * 2
    first, second = found[:3], found[3:]
    assert [each[1] for each in first] == [each[1] for each in second]
    entries = EngineCache(tmp_path / "engines").entries()
    assert sorted(str(entry.path) for entry in entries) == sorted(each[1] for each in first)
    assert [entry.problem for entry in entries] == [""] * 3
    # All of them: the template's is built in a moment.
    assert sum(float(each[4]) for each in second) < sum(float(each[4]) for each in first)


def test_engine_without_a_gpu_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["build-engine", "--cache-dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "GPU" in error
    assert list(tmp_path.iterdir()) == []


def test_model_without_a_graph_names_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main(["build-engine", "--model", "ostrack-b256", "--without-gpu"]) == 1
    assert "ros2-tracker export --model ostrack-b256" in capsys.readouterr().err
