"""What is installed is complete, versions agree, and our vision_msgs speaks with the real one."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = ROOT / "packaging/vision_msgs"

# Of vision_msgs 4.x, on the wire and in `ros2 topic info --verbose`.
DETECTION_ARRAY_HASH = "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"


@pytest.fixture(scope="module")
def builder():
    # Loaded by its path: with packaging/ on sys.path, `import vision_msgs.msg` would find a folder of .msg files.
    spec = importlib.util.spec_from_file_location("message_builder", ROOT / "packaging/message_builder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def detection_array_hash(folder: Path) -> str:
    store = get_typestore(Stores.ROS2_HUMBLE)
    for path in folder.glob("*.msg"):
        store.register(get_types_from_msg(path.read_text(), f"vision_msgs/msg/{path.stem}"))
    return store.hash_rihs01("vision_msgs/msg/Detection2DArray")


def test_stand_in_definitions_have_the_hash_of_vision_msgs_4():
    assert detection_array_hash(STAND_IN / "msg") == DETECTION_ARRAY_HASH


def test_real_vision_msgs_has_the_same_hash():
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    shares = [Path(prefix, "share/vision_msgs/msg") for prefix in prefixes if prefix and prefix != sys.prefix]
    real = next((share for share in shares if share.is_dir()), None)
    if real is None:
        pytest.skip("no sourced ROS with vision_msgs")
    assert detection_array_hash(real) == DETECTION_ARRAY_HASH
    if (described := real / "Detection2DArray.json").exists():  # since Iron
        assert json.loads(described.read_text())["type_hashes"][0]["hash_string"] == DETECTION_ARRAY_HASH


def test_installed_vision_msgs_announces_the_hash():
    rclpy = pytest.importorskip("rclpy", reason="ROS is not installed")
    messages = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not installed")
    context = rclpy.Context()
    rclpy.init(context=context, args=[], domain_id=87)
    try:
        node = rclpy.create_node("packaging_test", context=context)
        node.create_publisher(messages.Detection2DArray, "tracks", 1)
        (endpoint,) = node.get_publishers_info_by_topic("/tracks")
        assert DETECTION_ARRAY_HASH in str(endpoint)
    finally:
        rclpy.shutdown(context=context)


def test_stand_in_refuses_to_hide_the_vision_msgs_of_a_sourced_ros(tmp_path):
    (tmp_path / "share/vision_msgs").mkdir(parents=True)
    environment = os.environ | {"AMENT_PREFIX_PATH": str(tmp_path)}
    command = [sys.executable, "setup.py", "--version"]
    result = subprocess.run(command, cwd=STAND_IN, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"the sourced ROS has its own vision_msgs in {tmp_path}" in result.stderr


def test_stand_in_is_invisible_to_colcon():
    assert (STAND_IN / "COLCON_IGNORE").exists()
    assert (STAND_IN / "AMENT_IGNORE").exists()


def test_without_ros_the_builder_says_what_is_missing(builder, monkeypatch, tmp_path):
    monkeypatch.setattr(builder, "ros_prefixes", lambda: [tmp_path])
    assert "rosidl_generator_py" in builder.why_not_buildable()


def test_our_messages_need_no_vision_msgs():
    # The pip build would link them with a library that a robot does not have.
    assert not [path.name for path in ROOT.glob("msg/*.msg") if "vision_msgs" in path.read_text()]


def test_cmake_builds_every_message():
    listed = re.findall(r"^\s+(msg/\w+\.msg)$", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(f"msg/{path.name}" for path in ROOT.glob("msg/*.msg"))


def test_versions_agree():
    code = re.search(r'^__version__ = "(.+)"$', (ROOT / "ros2_tracker/__init__.py").read_text(), re.MULTILINE)
    newest = re.search(r"^(\d+\.\d+\.\d+)\b", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == code[1] == newest[1]


@pytest.fixture(scope="module")
def wheel(builder, tmp_path_factory):
    if (problem := builder.why_not_buildable()) is not None:
        pytest.skip(f"messages cannot be built: {problem}")
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("this environment's setuptools is older than the build requires")
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, because setuptools keeps modules that were deleted since in build/.
    ignored = shutil.ignore_patterns(".*", "build", "install", "log", "*.egg-info", "__pycache__", "demo_output")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    result = subprocess.run([*pip, "--wheel-dir", folder, folder / "source"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


def test_wheel_has_every_file_of_the_package(wheel):
    files = [path for path in (ROOT / "ros2_tracker").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert not {str(path.relative_to(ROOT)) for path in files} - set(wheel.namelist())


def test_wheel_has_our_messages(wheel):
    modules = {"ros2_tracker/msg/__init__.py", "ros2_tracker/msg/_track_event.py", "ros2_tracker/msg/_track_status.py"}
    assert modules <= set(wheel.namelist())
    assert any(re.match(r"ros2_tracker/ros2_tracker_s__rosidl_typesupport_c\..*so$", name) for name in wheel.namelist())


def test_wheel_has_what_ros_looks_for(wheel):
    installed = {name.partition(".data/data/")[2] for name in wheel.namelist()}
    assert "share/ament_index/resource_index/packages/ros2_tracker" in installed
    assert "share/ros2_tracker/package.xml" in installed
    for folder in ("launch", "config", "msg"):
        shared = {f"share/ros2_tracker/{folder}/{path.name}" for path in ROOT.glob(f"{folder}/*.*")}
        assert shared
        assert shared <= installed


def test_wheel_has_the_executable_of_the_node(wheel):
    (entry,) = (info for info in wheel.infolist() if info.filename.endswith("lib/ros2_tracker/tracker_node"))
    assert entry.external_attr >> 16 & 0o111
    assert wheel.read(entry).decode().startswith(f"#!{sys.executable}\n")
