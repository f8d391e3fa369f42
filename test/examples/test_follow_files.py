"""follow_me.yaml and the executable agree with the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from examples.follow_me.parameters import PARAMETERS, NodeSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "follow_me"


def test_the_yaml_has_every_parameter_at_its_default():
    given = yaml.safe_load((FOLDER / "follow_me.yaml").read_text())["/**"]["ros__parameters"]
    assert given == {name: declared.default for name, declared in PARAMETERS.items()}
    assert NodeSettings.from_values(given).law.status_timeout == 0.25


def test_every_parameter_has_a_description_and_every_number_a_range():
    for name, declared in PARAMETERS.items():
        descriptor = declared.descriptor()
        assert descriptor.description, name
        if isinstance(declared.default, float):
            (bounds,) = descriptor.floating_point_range
            assert bounds.from_value <= declared.default <= bounds.to_value, name


def test_the_executable_starts_the_node():
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts/follow_me"), "--ros-args", "-p", "ramp_time:=0.0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "ramp_time" in result.stderr


@pytest.mark.parametrize("name", ["control.py", "sighting.py"])
def test_the_law_knows_no_ros(name: str):
    code = (
        "import sys\n"
        f"import examples.follow_me.{name.removesuffix('.py')}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'rclpy', 'geometry_msgs', 'sensor_msgs'}))"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
