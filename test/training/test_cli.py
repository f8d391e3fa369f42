"""The verb `train`: one-line errors, what is printed, what the command line replaces."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="training needs torch")

import narrow

from ros2_tracker.cli import main
from ros2_tracker.models import build, variant


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(variant, "VARIANTS_DIR", variant.VARIANTS_DIR)
    monkeypatch.setattr(build, "FAMILIES", dict(build.FAMILIES))
    (tmp_path / "variants").mkdir()
    narrow.register(tmp_path / "variants")
    file = tmp_path / "config.json"
    run = {"steps": 2, "batch": 2, "warmup_steps": 0}
    file.write_text(json.dumps({"model": "narrow", "output": "unset", "optimizer": run, "validation": {"every": 0}}))
    return file


def test_train_and_resume(config, packs, tmp_path, capsys):
    arguments = ["train", str(config), "--data", str(packs), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'run' / 'weights.safetensors'}: done after 2 of 2 steps")
    assert "narrow: 0.03 M parameters learn from" in err
    assert main(arguments) == 1
    assert capsys.readouterr().err.endswith("go on with --resume, or name another --output\n")
    assert main([*arguments, "--resume"]) == 0
    assert "going on at step 2 of 2" in capsys.readouterr().err


def test_errors_are_one_line(config, tmp_path, capsys):
    for arguments, said in (
        ([str(tmp_path / "none.yaml")], "cannot be read"),
        ([str(config), "--data", str(tmp_path / "empty")], "no such folder"),
        ([str(config), "--data", str(tmp_path), "--device", "tpu"], "device is 'tpu'"),
    ):
        assert main(["train", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("ros2-tracker train: ")
        assert error.count("\n") == 1
        assert said in error


def test_help_has_an_example(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "example: ros2-tracker train" in out
    assert "--resume" in out
