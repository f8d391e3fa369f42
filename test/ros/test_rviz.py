"""rviz/tracker.rviz names our topics with QoS that match, and launch/rviz.launch.py starts RViz with it.

RViz itself is not needed: an executable of its name says what it was started with.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not there")

import rclpy
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from ros2_tracker.ros import qos

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "rviz" / "tracker.rviz"
LAUNCH_FILE = ROOT / "launch" / "rviz.launch.py"
WAIT_S = 60.0
STAND_IN = """#!/bin/sh
echo "stand-in: $*"
exec sleep 600
"""


def displays() -> dict[str, dict[str, Any]]:
    """Topic -> display."""
    manager = yaml.safe_load(CONFIG.read_text())["Visualization Manager"]
    return {d["Topic"]["Value"]: d for d in manager["Displays"] if "Topic" in d}


def test_debug_image_is_shown_with_a_qos_that_matches():
    display = displays()["/tracker/debug_image"]
    assert display["Class"] == "rviz_default_plugins/Image"
    # A subscription may not ask for more than the publisher offers.
    assert qos.DEBUG_IMAGE.reliability is ReliabilityPolicy.RELIABLE
    assert display["Topic"]["Reliability Policy"] in ("Reliable", "Best Effort")
    assert qos.DEBUG_IMAGE.durability is not DurabilityPolicy.TRANSIENT_LOCAL
    assert display["Topic"]["Durability Policy"] == "Volatile"


def test_a_point_can_be_clicked_and_is_shown():
    manager = yaml.safe_load(CONFIG.read_text())["Visualization Manager"]
    (tool,) = (t for t in manager["Tools"] if t["Class"] == "rviz_default_plugins/PublishPoint")
    assert displays()[tool["Topic"]]["Class"] == "rviz_default_plugins/PointStamped"


# -- the launch file ------------------------------------------------------------------------------------------------


@pytest.fixture
def launching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Launch with these arguments until `until(output)`; what was printed."""
    pytest.importorskip("launch_ros", reason="launch_ros is not there")
    pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from launch import LaunchDescription, LaunchService
    from launch.actions import IncludeLaunchDescription, RegisterEventHandler
    from launch.event_handlers import OnProcessIO
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join([str(tmp_path), *prefixes, sys.prefix]))
    try:
        get_package_prefix("ros2_tracker")
    except PackageNotFoundError:
        pytest.skip("ros2_tracker is not installed where launch looks for packages")

    def run(until: Callable[[str], bool], **arguments: str) -> str:
        printed: list[str] = []
        ended = threading.Event()

        def take(event: Any) -> None:
            printed.append(event.text.decode())

        io = OnProcessIO(on_stdout=take, on_stderr=take)
        source = PythonLaunchDescriptionSource(str(LAUNCH_FILE))
        include = IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))
        service = LaunchService(noninteractive=True)
        service.include_launch_description(LaunchDescription([RegisterEventHandler(io), include]))

        def watch() -> None:
            deadline = time.monotonic() + WAIT_S
            while not (ended.wait(0.1) or until("".join(printed)) or time.monotonic() > deadline):
                pass
            service.shutdown()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        # launch insists on the main thread.
        service.run()
        ended.set()
        thread.join()
        return "".join(printed)

    return run


def install_stand_in(prefix: Path) -> None:
    marker = prefix / "share/ament_index/resource_index/packages/rviz2"
    executable = prefix / "lib/rviz2/rviz2"
    for path, text in ((marker, ""), (executable, STAND_IN)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    executable.chmod(0o755)


def test_rviz_starts_beside_a_tracker_that_takes_its_points(
    launching: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from node_process import free_domain

    install_stand_in(tmp_path)
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        context = Context()
        rclpy.init(args=[], context=context, domain_id=domain)
        observer = rclpy.create_node("observer", context=context)

        def ready(printed: str) -> bool:
            return "stand-in" in printed and observer.count_subscribers("/clicked_point") > 0

        printed = launching(ready, namespace="uav", points_topic="/lidar", fixed_frame="odom")
        observer.destroy_node()
        context.try_shutdown()
    (line,) = (line for line in printed.splitlines() if "stand-in" in line)
    assert f"-d {CONFIG} -f odom" in line
    assert "-r /points:=/lidar" in line
    assert "-r /tracker/debug_image:=/uav/tracker/debug_image" in line
    assert "-r /clicked_point" not in line


def test_without_rviz_it_says_what_to_install_and_starts_nothing(
    launching: Callable[..., str], caplog: pytest.LogCaptureFixture
):
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("rviz2")
        pytest.skip("rviz2 is there")
    except PackageNotFoundError:
        pass
    printed = launching(lambda _: False)
    assert printed == ""
    assert "rviz2 is not installed: apt install ros-$ROS_DISTRO-rviz2" in caplog.text
