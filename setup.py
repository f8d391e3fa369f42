"""Build of the pip package: with ROS at hand also our messages, the node's executable and what ROS looks for.

colcon does not use this file (see CMakeLists.txt). Everything static is in pyproject.toml.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "packaging"))

from message_builder import BuildMessages, message_extension, why_not_buildable  # noqa: E402

SHARE = "share/ros2_tracker"
NODES = ("tracker_node", "operator", "follow_me")
"""Executables for `ros2 run`, in scripts/."""
NOTICE = """\
Installing ros2_tracker without its ROS node: {problem}.
The Python API and the ros2-tracker command work. For the node, install the `ros` extra or source a ROS,
then install this package once more."""


def files(pattern: str) -> list[str]:
    """Return the files that match, relative to the project as setuptools wants them."""
    return [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(pattern)) if path.is_file()]


def node_executable(name: str) -> str:
    """Write the executable with this interpreter in its first line: `ros2 launch` starts it without the venv's PATH."""
    body = (ROOT / "scripts" / name).read_text().partition("\n")[2]
    executable = ROOT / "build/pip" / name
    executable.parent.mkdir(parents=True, exist_ok=True)
    executable.write_text(f"#!{sys.executable}\n{body}")
    executable.chmod(0o755)
    return str(executable.relative_to(ROOT))


data_files = [
    ("share/ament_index/resource_index/packages", ["packaging/resource/ros2_tracker"]),
    (SHARE, ["package.xml"]),
    (f"{SHARE}/launch", files("launch/*")),
    (f"{SHARE}/config", files("config/*")),
    (f"{SHARE}/config/training", files("config/training/*")),
    (f"{SHARE}/msg", files("msg/*.msg")),
    (f"{SHARE}/rviz", files("rviz/*")),
    (f"{SHARE}/examples/follow_me", files("examples/follow_me/*")),
    (f"{SHARE}/examples/follow_me/simulation", files("examples/follow_me/simulation/*")),
]
problem = why_not_buildable()
if problem:
    print(NOTICE.format(problem=problem), file=sys.stderr)
    setup(data_files=data_files)
else:
    setup(
        data_files=[*data_files, ("lib/ros2_tracker", [node_executable(name) for name in NODES])],
        ext_modules=[message_extension("ros2_tracker", ROOT / "msg")],
        cmdclass={"build_ext": BuildMessages},
    )
