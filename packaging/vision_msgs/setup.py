"""Build the stand-in for vision_msgs; refuses where ROS has the real package."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from message_builder import BuildMessages, message_extension, ros_prefixes, why_not_buildable  # noqa: E402

for prefix in ros_prefixes():
    if prefix != Path(sys.prefix) and (prefix / "share/vision_msgs").exists():
        sys.exit(f"Not installed: the sourced ROS has its own vision_msgs in {prefix}, which this one would hide.")
if problem := why_not_buildable():
    sys.exit(f"vision_msgs cannot be built: {problem}. Install ROS's own: apt install ros-$ROS_DISTRO-vision-msgs")

setup(
    ext_modules=[message_extension("vision_msgs", HERE / "msg")],
    cmdclass={"build_ext": BuildMessages},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/vision_msgs"]),
        ("share/vision_msgs", ["package.xml"]),
        ("share/vision_msgs/msg", [str(path.relative_to(HERE)) for path in sorted(HERE.glob("msg/*.msg"))]),
    ],
)
