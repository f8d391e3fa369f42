"""One direction of dependency: what may know ROS and torch, and what may not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ros2_tracker"
FREE_OF_ROS = ("tracking", "models", "engines", "evaluation", "operator")
NEED_TORCH = {
    "engines/export.py",
    "engines/fp16.py",
    "engines/onnx_graph.py",
    "engines/quantize.py",
    "engines/torch.py",
    "engines/torch_crop.py",
    "engines/torch_cuda.py",
    "evaluation/export.py",
    "evaluation/export_check.py",
    "evaluation/quantize.py",
    "models/graphs.py",
    "models/ibfp.py",
    "models/ibfp_backbone.py",
    "models/ibfp_online.py",
    "models/ibfp_online_layers.py",
    "models/ibfp_optimizer.py",
    "models/inmo.py",
    "models/inmo_attention.py",
    "models/inmo_graphs.py",
    "models/inmo_heads.py",
    "models/inmo_resnet.py",
    "models/inmo_swin.py",
    "models/layers.py",
    "models/local_stages.py",
    "models/multistage.py",
    "models/ostrack.py",
    "models/prepare.py",
    "models/stand_in.py",
    "models/stark.py",
}
"""The networks themselves, their export and quantisation (onnx); whoever uses them imports them late."""
ROS = {"rclpy", "sensor_msgs", "vision_msgs", "geometry_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "rosbags"}


def imported(file: Path) -> set[str]:
    """Names of the modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def offenders(folders: tuple[str, ...], forbidden: set[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for folder in folders
        for file in sorted((PACKAGE / folder).rglob("*.py"))
        for name in imported(file)
        if any(name == f or name.startswith(f + ".") for f in forbidden)
    ]


def test_only_the_node_and_ros_import_ros():
    for file in sorted(PACKAGE.rglob("*.py")):
        relative = file.relative_to(PACKAGE)
        if relative.parts[0] in ("ros", "msg") or relative.name == "node.py":
            continue
        roots = {name.split(".")[0] for name in imported(file)}
        assert not roots & ROS, f"{relative} imports {roots & ROS}"


def test_lower_layers_do_not_reach_up():
    above = {"ros2_tracker.ros", "ros2_tracker.node", "ros2_tracker.cli", "ros2_tracker.msg"}
    assert offenders(FREE_OF_ROS, above) == []
    assert offenders(("tracking", "models", "engines"), {"ros2_tracker.evaluation"}) == []
    assert offenders(("models", "engines"), {"ros2_tracker.tracking"}) == []


def test_tracking_never_imports_torch():
    assert offenders(("tracking",), {"torch"}) == []


def test_importing_the_ros_free_folders_brings_in_neither_ros_nor_torch():
    modules = ["ros2_tracker", "ros2_tracker.cli", "ros2_tracker.doctor"]
    for folder in FREE_OF_ROS:
        for file in sorted((PACKAGE / folder).rglob("*.py")):
            if file.relative_to(PACKAGE).as_posix() in NEED_TORCH:
                continue
            parts = file.relative_to(ROOT).with_suffix("").parts
            modules.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        f"print(sorted({{name.split('.')[0] for name in sys.modules}} & {ROS | {'torch'}!r}))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, *modules], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "[]"
