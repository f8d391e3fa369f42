"""launch/tracker.launch.py through the `launch` Python API, with the real node. Skipped where launch_ros is not."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessIO, OnProcessStart
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from node_process import Client, box_of, free_domain
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from scene import box_at, image_message, iou, render
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray

LAUNCH_FILE = Path(__file__).resolve().parents[2] / "launch" / "tracker.launch.py"
PROFILE = LAUNCH_FILE.parents[1] / "config" / "fastdds_profile.xml"
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
AT = (100, 90)


@dataclass
class Launched:
    """A launch, and what became of it."""

    status: int = 0
    """Of the launch itself."""
    exit_codes: list[int] = field(default_factory=list)
    """Of the nodes."""
    output: str = ""
    """What the nodes printed so far."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the node's process."""
    stopping_s: float = 0.0
    """From the request to stop until all had ended."""


@pytest.fixture(scope="module")
def launch_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tracker_launch", LAUNCH_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def launched() -> Launched:
    return Launched()


@pytest.fixture
def client(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A ROS node in the domain that the launched node will be in."""
    # A virtual environment is a prefix like a colcon workspace, but nothing sources it.
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join([*prefixes, sys.prefix]))
    try:
        get_package_prefix("ros2_tracker")
    except PackageNotFoundError:
        pytest.skip("ros2_tracker is not installed where launch looks for packages")
    with free_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        node = Client(domain, launched)
        yield node
        node.close()


def run_launch(launched: Launched, probe: Callable[[], Any], group: str = "", **arguments: str) -> None:
    """Launch with these arguments (in a group with a namespace, if one is given), until `probe` returns beside it."""

    def on_start(event: Any, _: Any) -> None:
        words = Path(f"/proc/{event.pid}/environ").read_text().split("\0")
        launched.environment.update(word.split("=", 1) for word in words if "=" in word)

    def on_io(event: Any) -> None:
        launched.output += event.text.decode()

    def on_exit(event: Any, _: Any) -> None:
        launched.exit_codes.append(event.returncode)

    include = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH_FILE)), launch_arguments=list(arguments.items())
    )
    service = LaunchService(noninteractive=True)
    service.include_launch_description(
        LaunchDescription(
            [
                RegisterEventHandler(OnProcessStart(on_start=on_start)),
                RegisterEventHandler(OnProcessIO(on_stdout=on_io, on_stderr=on_io)),
                RegisterEventHandler(OnProcessExit(on_exit=on_exit)),
                GroupAction([PushRosNamespace(group), include]) if group else include,
            ]
        )
    )
    failures: list[BaseException] = []
    stopped_at: list[float] = []

    def beside() -> None:
        try:
            probe()
        except BaseException as error:
            failures.append(error)
        stopped_at.append(time.monotonic())
        service.shutdown()

    thread = threading.Thread(target=beside, daemon=True)
    thread.start()
    # launch insists on the main thread.
    launched.status = service.run()
    thread.join()
    launched.stopping_s = time.monotonic() - stopped_at[0]
    if failures:
        raise failures[0]


def parameters_of(client: Client, node: str, *names: str) -> list[Any]:
    """Values of a node's parameters."""
    service = client.node.create_client(GetParameters, f"{node}/get_parameters")
    client.wait(f"the parameters of {node}", service.service_is_ready)
    future = service.call_async(GetParameters.Request(names=names))
    client.wait(f"the parameters of {node}", future.done)
    return [parameter_value_to_python(value) for value in future.result().values]


def state_of(client: Client, node: str) -> int:
    """Lifecycle state of a node."""
    service = client.node.create_client(GetState, f"{node}/get_state")
    client.wait(f"the state of {node}", service.service_is_ready)
    future = service.call_async(GetState.Request())
    client.wait(f"the state of {node}", future.done)
    return future.result().current_state.id


# -- a running node -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("_time", ["first", "second"])
def test_a_box_in_the_images_of_image_topic_gives_tracks_and_it_ends_cleanly(
    launched: Launched, client: Client, _time: str
):
    node = client.node
    images = node.create_publisher(Image, "/camera/image_raw", 1)
    inits = node.create_publisher(Detection2D, "/uav/tracker/init", 1)
    tracks = client.collect(Detection2DArray, "/uav/tracker/tracks")

    def probe() -> None:
        client.wait("the image subscription", images.get_subscription_count)
        client.wait("the init subscription", inits.get_subscription_count)
        client.wait("the tracks publisher", lambda: node.count_publishers("/uav/tracker/tracks"))
        assert node.count_subscribers("/camera/camera_info") == 1
        assert node.count_subscribers("/uav/image") == 0
        box = Detection2D(id="it")
        x, y, w, h = box_at(*AT)
        box.bbox.center.position.x, box.bbox.center.position.y = x + w / 2, y + h / 2
        box.bbox.size_x, box.bbox.size_y = w, h
        inits.publish(box)

        def tracked() -> Detection2D | None:
            images.publish(image_message(render(AT), "bgr8", node.get_clock().now().nanoseconds))
            return next((d for array in tracks.since() for d in array.detections if d.id == "it"), None)

        assert iou(box_of(client.wait("a track", tracked)), box_at(*AT)) > 0.6

    run_launch(launched, probe, namespace="uav", image_topic="/camera/image_raw")

    assert launched.status == 0
    assert launched.exit_codes == [0], launched.output
    assert launched.stopping_s < 2.0
    assert "Traceback" not in launched.output


def test_arguments_and_params_file_reach_the_node(
    launched: Launched, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    parameters = tmp_path / "mine.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    max_targets: 2\n    max_image_age: 3\n    autostart: true\n")

    def probe() -> None:
        names = ("max_targets", "max_image_age", "autostart", "use_sim_time", "tune_malloc")
        assert parameters_of(client, "/fleet/uav/tracker", *names) == [2, 3, False, True, True]
        assert state_of(client, "/fleet/uav/tracker") == State.PRIMARY_STATE_UNCONFIGURED

    run_launch(
        launched,
        probe,
        group="fleet",
        namespace="uav",
        params_file=str(parameters),
        use_sim_time="True",
        autostart="false",
        fastdds_profile=str(PROFILE),
    )

    assert launched.exit_codes == [0], launched.output
    assert [launched.environment[name] for name in PROFILE_VARIABLES if name in launched.environment] == [str(PROFILE)]


def test_log_level_is_that_of_the_node(launched: Launched, client: Client):
    def probe() -> None:
        # It warns after a while without images; "active: images from ..." before that is information.
        client.wait("a warning", lambda: "nobody publishes /a/b/image" in launched.output)

    run_launch(launched, probe, namespace="/a/b", log_level="warn")

    assert "[WARN]" in launched.output
    assert "[INFO]" not in launched.output


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"params_file": "/does/not/exist.yaml"}, "params_file: there is no file /does/not/exist.yaml"),
        ({"fastdds_profile": "/does/not/exist.xml"}, "fastdds_profile: there is no file /does/not/exist.xml"),
        ({"autostart": "maybe"}, 'Argument "autostart" provided value "maybe" is not valid'),
        ({"use_sim_time": "1"}, 'Argument "use_sim_time" provided value "1" is not valid'),
        ({"tune_malloc": "on"}, 'Argument "tune_malloc" provided value "on" is not valid'),
        ({"log_level": "loud"}, 'Argument "log_level" provided value "loud" is not valid'),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_started(
    launched: Launched,
    arguments: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    run_launch(launched, lambda: None, **arguments)

    assert launched.status == 1
    assert launched.exit_codes == []
    assert reason in caplog.text


# -- Fast DDS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("humble", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("rolling", "FASTDDS_DEFAULT_PROFILES_FILE"),
        (None, "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_the_variable_for_the_profile_is_the_one_that_this_fast_dds_reads(
    launch_file: ModuleType, distribution: str | None, variable: str
):
    environment = {"ROS_DISTRO": distribution} if distribution else {}
    assert launch_file.profile_environment(str(PROFILE), environment) == ({variable: str(PROFILE)}, [])


@pytest.mark.parametrize("variable", PROFILE_VARIABLES)
def test_a_profile_that_the_user_has_set_stays(launch_file: ModuleType, variable: str):
    chosen, notes = launch_file.profile_environment(str(PROFILE), {variable: "/my/profile.xml", "ROS_DISTRO": "jazzy"})
    assert chosen == {}
    assert notes == [f"{variable} is set already: fastdds_profile is not used"]


@pytest.mark.parametrize("off", ["", "none", "None"])
def test_the_profile_can_be_switched_off(launch_file: ModuleType, off: str):
    assert launch_file.profile_environment(off, {}) == ({}, [])


@pytest.mark.parametrize(
    ("image", "camera_info"),
    [
        ("image", "camera_info"),
        ("/camera/image_raw", "/camera/camera_info"),
        ("front/image", "front/camera_info"),
        ("/image", "/camera_info"),
    ],
)
def test_camera_info_is_looked_for_beside_the_image(launch_file: ModuleType, image: str, camera_info: str):
    assert launch_file.beside(image, "camera_info") == camera_info
