"""Follow what the tracker tracks: `ros2 launch ros2_tracker follow_me.launch.py camera_info_topic:=/cam/camera_info`.

The tracker itself is started by tracker.launch.py, with the same namespace. All else about the node is set in its
parameter file, a copy of follow_me.yaml given as `params_file`.
"""

# ruff: noqa: N999
from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_description_entity import LaunchDescriptionEntity
from launch_ros.actions import Node

BOOLEANS = ["", "true", "false", "True", "False"]
ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and of the tracker"),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(Path(__file__).absolute().parent / "follow_me.yaml"),
        description="YAML file with the node's parameters",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=BOOLEANS,
        description="take the time from /clock; as the tracker does; empty: as the parameter file says",
    ),
    DeclareLaunchArgument("camera_info_topic", default_value="camera_info", description="the camera's calibration"),
    DeclareLaunchArgument("status_topic", default_value="tracker/status", description="what the tracker says"),
    DeclareLaunchArgument("cmd_vel_topic", default_value="cmd_vel", description="where TwistStamped commands go"),
]


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments and the node; `ros2 launch` calls this."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=describe_node)])


def describe_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the node's action from the arguments' values; RuntimeError when the parameter file is not there."""
    values = context.launch_configurations
    parameters = Path(values["params_file"]).expanduser().absolute()
    if not parameters.is_file():
        # launch_ros only warns, and the node would run with its defaults.
        raise RuntimeError(f"params_file: there is no file {parameters}")
    overrides = {"use_sim_time": values["use_sim_time"].lower() == "true"} if values["use_sim_time"] else None
    return [
        Node(
            package="ros2_tracker",
            executable="follow_me",
            name="follow_me",
            namespace=values["namespace"],
            parameters=[str(parameters), *([overrides] if overrides else [])],
            remappings=[
                ("camera_info", values["camera_info_topic"]),
                ("tracker/status", values["status_topic"]),
                ("cmd_vel", values["cmd_vel_topic"]),
            ],
            output="screen",
        )
    ]
