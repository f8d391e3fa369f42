"""What the doctor finds, and what it says about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ros2_tracker import doctor
from ros2_tracker.doctor import Check, Verdict


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return doctor.examine()


def test_default_tracker_runs_here(checks: list[Check]):
    assert doctor.healthy(checks)
    found = by_name(checks)
    assert "update" in found["default tracker"].detail
    assert "CPU" in found["ONNX Runtime"].detail
    assert {"PyTorch", "TensorRT", "ROS 2 (rclpy)", "shared memory"} <= set(found)


def test_everything_that_is_not_fine_comes_with_advice(checks: list[Check]):
    for check in checks:
        assert check.detail
        assert check.advice or check.verdict is Verdict.OK, check


def test_both_forms_tell_the_same(checks: list[Check]):
    data = json.loads(doctor.as_json(checks))
    assert data["healthy"] is True
    text = doctor.as_text(checks)
    for row in data["checks"]:
        assert row["name"] in text
        assert row["detail"] in text
        assert row["advice"] in text


def test_missing_essential_is_not_healthy(monkeypatch: pytest.MonkeyPatch):
    def fail() -> str:
        raise RuntimeError("no\nweights")

    monkeypatch.setattr(doctor, "_try_default", fail)
    checks = doctor._python_checks()
    assert not doctor.healthy(checks)
    broken = by_name(checks)["default tracker"]
    assert (broken.verdict, broken.detail) == (Verdict.PROBLEM, "RuntimeError: no weights")
    assert doctor.as_text(checks).endswith("does not run here.")


def test_imports_in_a_child_tell_absent_from_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_library.py").write_text("print('noise')\nraise OSError('libmissing.so: cannot open')")
    (tmp_path / "deadly_library.py").write_text("import os\nos._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor._import_in_child(["json", "broken_library", "no_such_library", "deadly_library", "csv"])
    assert found["json"][0]
    assert found["broken_library"] == (False, "OSError: libmissing.so: cannot open")
    assert not found["deadly_library"][0]
    assert "ended the interpreter" in found["csv"][1]
    verdicts = [doctor._not_loaded(n, n, found[n][1], "").verdict for n in ("broken_library", "no_such_library")]
    assert verdicts == [Verdict.PROBLEM, Verdict.ABSENT]


@pytest.mark.parametrize(
    ("variables", "verdict", "named"),
    [
        ({}, Verdict.PROBLEM, "none"),
        ({"FASTDDS": "absent.xml"}, Verdict.PROBLEM, "absent.xml"),
        ({"FASTDDS": __file__}, Verdict.OK, __file__),
        ({"FASTDDS": __file__, "FASTRTPS": __file__}, Verdict.PROBLEM, "both set"),
    ],
)
def test_fast_dds_profile(
    variables: dict[str, str], verdict: Verdict, named: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    for prefix in ("FASTDDS", "FASTRTPS"):
        monkeypatch.delenv(f"{prefix}_DEFAULT_PROFILES_FILE", raising=False)
        if prefix in variables:
            monkeypatch.setenv(f"{prefix}_DEFAULT_PROFILES_FILE", variables[prefix])
    check = doctor._fast_dds_profile()
    assert check.verdict is verdict
    assert named in check.detail
