"""Start the tracker node: `ros2 launch ros2_tracker tracker.launch.py image_topic:=/camera/image_raw`.

`ros2 launch --show-args ros2_tracker tracker.launch.py` lists the arguments. Everything else about the node is set in
its parameter file, a copy of config/tracker.yaml given as `params_file`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.launch_description_entity import LaunchDescriptionEntity
from launch_ros.actions import Node
from launch_ros.utilities import prefix_namespace

# Beside this file in the source tree and in share/ros2_tracker.
CONFIG = Path(__file__).absolute().parents[1] / "config"
NODE_NAME = "tracker"
LOG_LEVELS = ["debug", "info", "warn", "error", "fatal"]
# Both spellings are common in launch files; empty keeps what the parameter file says.
BOOLEANS = ["", "true", "false", "True", "False"]
OVERRIDES = {
    "use_sim_time": "take the time from /clock, as with a bag or a simulator",
    "autostart": "configure and activate the node at start; false leaves that to a lifecycle manager",
    "tune_malloc": "keep image buffers instead of giving them back to the kernel after each frame",
}
PICKING = {
    "init_point_topic": ("init_point.topic", "points in space to follow, as RViz's /clicked_point"),
    "init_click_topic": ("init_click.topic", "clicked pixels to follow, as rqt_image_view's <image topic>_mouse_left"),
}
"""Launch argument -> the parameter it sets, and what that is."""
OPERATOR = {
    "host": "address that the page listens on; any but this machine's own needs a token",
    "port": "port that the page listens on",
    "image_transport": "raw or compressed, as the tracker's parameter of that name",
    "token_file": "file with the token that browsers must know",
}

ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
    DeclareLaunchArgument(
        "params_file", default_value=str(CONFIG / "tracker.yaml"), description="YAML file with the node's parameters"
    ),
    *(
        DeclareLaunchArgument(
            name, default_value="", choices=BOOLEANS, description=f"{text}; empty: as the parameter file says"
        )
        for name, text in OVERRIDES.items()
    ),
    *(
        DeclareLaunchArgument(name, default_value="", description=f"{text}; empty: as the parameter file says")
        for name, (_, text) in PICKING.items()
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", choices=LOG_LEVELS, description="what the node logs, at least"
    ),
    DeclareLaunchArgument(
        "image_topic",
        default_value="image",
        description="the camera's images, without /compressed: the parameter image_transport adds that",
    ),
    DeclareLaunchArgument(
        "camera_info_topic",
        default_value="",
        description="the camera's calibration; empty: `camera_info` beside the image topic",
    ),
    DeclareLaunchArgument(
        "operator",
        default_value="false",
        choices=["true", "false", "True", "False"],
        description="serve the browser page to pick and watch a target as well (docs/operator.md)",
    ),
    *(
        DeclareLaunchArgument(f"operator_{name}", default_value="", description=f"{text}; empty: the page's default")
        for name, text in OPERATOR.items()
    ),
    DeclareLaunchArgument(
        "fastdds_profile",
        default_value=str(CONFIG / "fastdds_profile.xml"),
        description="profile with room for camera images in Fast DDS's shared memory, to be set for the camera's "
        "process as well; none (or empty): Fast DDS's defaults",
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments and the node; `ros2 launch` calls this."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=describe_node)])


def describe_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the node's action from the arguments' values; RuntimeError when a file is not there."""
    values = context.launch_configurations
    overrides: dict[str, bool | str] = {n: values[n].lower() == "true" for n in OVERRIDES if values[n]}
    overrides |= {parameter: values[name] for name, (parameter, _) in PICKING.items() if values[name]}
    profile, notes = profile_environment(values["fastdds_profile"], context.environment)
    # Written out because `--log-level debug` alone would make the middleware talk as well.
    logger = f"{prefix_namespace(values.get('ros_namespace'), values['namespace']) or ''}/{NODE_NAME}"
    return [
        *(LogInfo(msg=note) for note in notes),
        Node(
            package="ros2_tracker",
            executable="tracker_node",
            name=NODE_NAME,
            namespace=values["namespace"],
            # launch_ros only warns of a missing file, and the node would run with its defaults.
            parameters=[existing_file("params_file", values["params_file"]), *([overrides] if overrides else [])],
            remappings=[
                ("image", values["image_topic"]),
                ("camera_info", values["camera_info_topic"] or beside(values["image_topic"], "camera_info")),
            ],
            ros_arguments=["--log-level", f"{logger.strip('/').replace('/', '.')}:={values['log_level']}"],
            additional_env=profile,
            output="screen",
        ),
        *(operator_nodes(values) if values["operator"].lower() == "true" else []),
    ]


def operator_nodes(values: Mapping[str, str]) -> list[Node]:
    """Make the action of the operator's page; RuntimeError when the port is no number."""
    given = {name: values[f"operator_{name}"] for name in OPERATOR if values[f"operator_{name}"]}
    parameters: dict[str, object] = {**given, "tracker": NODE_NAME}
    if "port" in given:
        if not given["port"].isdigit():
            raise RuntimeError(f"operator_port: {given['port']!r} is not a number")
        parameters["port"] = int(given["port"])
    if values["use_sim_time"]:
        parameters["use_sim_time"] = values["use_sim_time"].lower() == "true"
    return [
        Node(
            package="ros2_tracker",
            executable="operator",
            name="operator",
            namespace=values["namespace"],
            parameters=[parameters],
            remappings=[("image", values["image_topic"])],
            output="screen",
        )
    ]


def profile_environment(profile: str, environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Choose the variable that makes Fast DDS read `profile`: none if the user has set one; and what to say about it.

    Fast DDS 3 (Kilted and newer) has a variable of its own. It still reads the old one, and a profile that is named in
    both is loaded twice.
    """
    if profile.lower() in ("", "none"):
        return {}, []
    current, former = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
    chosen = [name for name in (current, former) if environment.get(name)]
    if chosen:
        return {}, [f"{' and '.join(chosen)} is set already: fastdds_profile is not used"]
    fast_dds_2 = environment.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    return {former if fast_dds_2 else current: existing_file("fastdds_profile", profile)}, []


def existing_file(argument: str, path: str) -> str:
    """Return an argument's file with its full path; RuntimeError naming the argument if there is no such file."""
    full = Path(path).expanduser().absolute()
    if not full.is_file():
        raise RuntimeError(f"{argument}: there is no file {full}")
    return str(full)


def beside(topic: str, name: str) -> str:
    """Return the topic `name` in the same namespace as `topic`, where image_transport looks for camera_info."""
    return "/".join([*topic.split("/")[:-1], name])
