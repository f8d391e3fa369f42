"""Start the tracker and RViz to watch it and to pick targets: `ros2 launch ros2_tracker rviz.launch.py`.

Takes the arguments of tracker.launch.py as well. A point clicked with RViz's Publish Point becomes a target; see
docs/pick_a_target.md.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.utilities import prefix_namespace

# Beside this file in the source tree and in share/ros2_tracker.
LAUNCH = Path(__file__).absolute().parent
CLICKED_POINT, POINTS, DEBUG_IMAGE = "/clicked_point", "/points", "/tracker/debug_image"
"""As rviz/tracker.rviz names them."""

ARGUMENTS = [
    # Of tracker.launch.py, with another default.
    DeclareLaunchArgument(
        "init_point_topic", default_value=CLICKED_POINT, description="what RViz's Publish Point sends its points on"
    ),
    DeclareLaunchArgument(
        "fixed_frame", default_value="map", description="RViz's; TF must know the way from it to the camera"
    ),
    DeclareLaunchArgument(
        "points_topic", default_value=POINTS, description="a PointCloud2 to click into, as of a depth camera or a lidar"
    ),
    DeclareLaunchArgument(
        "rviz_config",
        default_value=str(LAUNCH.parent / "rviz" / "tracker.rviz"),
        description="RViz's configuration file",
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments, the tracker and RViz; `ros2 launch` calls this."""
    check, show = OpaqueFunction(function=require_rviz), OpaqueFunction(function=rviz)
    tracker = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH / "tracker.launch.py")))
    return LaunchDescription([check, *ARGUMENTS, tracker, show])


def require_rviz(_context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Start nothing; RuntimeError when RViz is not installed."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        raise RuntimeError(
            "rviz2 is not installed: apt install ros-$ROS_DISTRO-rviz2; without it: "
            "ros2 launch ros2_tracker tracker.launch.py"
        ) from None
    return []


def rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make RViz's action from the arguments' values; RuntimeError when its configuration is not there."""
    values = context.launch_configurations
    config = Path(values["rviz_config"]).expanduser().absolute()
    if not config.is_file():
        raise RuntimeError(f"rviz_config: there is no file {config}")
    namespace = prefix_namespace(values.get("ros_namespace"), values["namespace"]) or ""
    debug_image = f"/{namespace.strip('/')}{DEBUG_IMAGE}" if namespace.strip("/") else DEBUG_IMAGE
    remappings = {CLICKED_POINT: values["init_point_topic"], POINTS: values["points_topic"], DEBUG_IMAGE: debug_image}
    sim_time = [{"use_sim_time": values["use_sim_time"].lower() == "true"}] if values.get("use_sim_time") else []
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz2",
            arguments=["-d", str(config), "-f", values["fixed_frame"]],
            parameters=sim_time,
            remappings=[(name, topic) for name, topic in remappings.items() if name != topic],
            output="screen",
        )
    ]
