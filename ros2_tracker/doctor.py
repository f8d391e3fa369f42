"""`ros2-tracker doctor`: which run times, what of ROS and of the machine is there, and what to do about what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

_MIB = 1024 * 1024
# A 1080p bgr8 image has 6 MB; publisher and subscribers hold several at once.
_SHM_WANTED_MIB = 256
_CHILD_TIMEOUT_S = 60.0

MESSAGE_PACKAGES = (
    "sensor_msgs.msg",
    "geometry_msgs.msg",
    "std_srvs.srv",
    "diagnostic_msgs.msg",
    "vision_msgs.msg",
    "ros2_tracker.msg",
)

# Imports happen in a child: a broken library must not take the doctor down with it.
_CHILD = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    try:
        module = importlib.import_module(name)
        answer = str(getattr(module, "__version__", "") or "")
        if name == "torch":
            gpus = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
            answer += ", CUDA: " + (", ".join(gpus) or "no GPU")
        if name == "rclpy":
            answer = module.get_rmw_implementation_identifier()
        print(json.dumps([name, True, answer]), flush=True)
    except BaseException as error:
        print(json.dumps([name, False, f"{type(error).__name__}: {error}".splitlines()[0]]), flush=True)
"""


class Verdict(Enum):
    """Of one check."""

    OK = "ok"
    ABSENT = "absent"
    """Optional, and not there."""
    PROBLEM = "problem"
    """There, but it will not do."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    detail: str
    advice: str = ""
    """What to do about it, empty when nothing is needed."""
    essential: bool = False
    """Whether the default tracker cannot run without it."""


def examine() -> list[Check]:
    """Look at everything; takes some seconds."""
    engines = [*_optional_engines(), _engine_choice(), _engine_cache()]
    return [*_python_checks(), *engines, *_ros_checks(), _shared_memory()]


def healthy(checks: list[Check]) -> bool:
    """Whether the default tracker can run."""
    return all(check.verdict is Verdict.OK for check in checks if check.essential)


def as_text(checks: list[Check]) -> str:
    """For a terminal: a line a check, advice beneath."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.verdict.value:<8} {check.name:<{width}}  {check.detail}")
        if check.advice:
            lines.append(f"{'':<8} {'':<{width}}  -> {check.advice}")
    lines.append("")
    lines.append("The default tracker runs here." if healthy(checks) else "The default tracker does not run here.")
    return "\n".join(lines)


def as_json(checks: list[Check]) -> str:
    """The same for programs."""
    rows: list[dict[str, Any]] = [{**asdict(check), "verdict": check.verdict.value} for check in checks]
    return json.dumps({"healthy": healthy(checks), "checks": rows}, indent=2)


def _essential(name: str, look: Callable[[], str], advice: str) -> Check:
    try:
        return Check(name, Verdict.OK, look(), essential=True)
    except Exception as error:  # whatever is wrong is what the doctor is asked for
        return Check(name, Verdict.PROBLEM, _one_line(error), advice, essential=True)


def _python_checks() -> list[Check]:
    def opencv() -> str:
        import cv2

        return f"{cv2.__version__}"

    def numpy() -> str:
        import numpy as np

        return np.__version__

    def onnxruntime() -> str:
        import onnxruntime as ort

        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())
        return f"{ort.__version__}, providers: {providers} (the package uses CPU)"

    return [
        Check("Python", Verdict.OK, f"{sys.version.split()[0]}, {len(os.sched_getaffinity(0))} cores usable"),
        _essential("NumPy", numpy, "pip install numpy"),
        _essential("OpenCV", opencv, "pip install opencv-python, or apt install python3-opencv"),
        _essential("ONNX Runtime", onnxruntime, "pip install onnxruntime"),
        _essential("default tracker", _try_default, "reinstall the package; `ros2-tracker models` shows its weights"),
    ]


def _try_default() -> str:
    """Load it and follow something."""
    from ros2_tracker.evaluation.synthetic import SyntheticClip
    from ros2_tracker.tracking.tracker import Tracker

    started = time.perf_counter()
    tracker = Tracker.load()
    load_s = time.perf_counter() - started
    clip = SyntheticClip(300, 160, 120)
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    started = time.perf_counter()
    tracker.update(clip.render(1).image)
    update_ms = (time.perf_counter() - started) * 1e3
    network = tracker.network
    return f"{network.variant.name} on {network.engine.description}: loads in {load_s:.2f} s, update {update_ms:.0f} ms"


def _optional_engines() -> list[Check]:
    found = _import_in_child(["torch", "tensorrt", "tensorrt_rtx"])
    checks = []
    loads, detail = found["torch"]
    if loads:
        checks.append(Check("PyTorch", Verdict.OK, detail))
    else:
        advice = "only needed to run imported weights and to export them: pip install torch safetensors"
        checks.append(_not_loaded("PyTorch", "torch", detail, advice))
    name, (loads, detail) = next(
        ((n, found[n]) for n in ("tensorrt", "tensorrt_rtx") if found[n][0]), ("tensorrt", found["tensorrt"])
    )
    if loads:
        checks.append(Check("TensorRT", Verdict.OK, f"{name} {detail}"))
    else:
        advice = "only of use with an NVIDIA GPU: JetPack and NVIDIA's apt repository have it"
        checks.append(_not_loaded("TensorRT", "tensorrt", detail, advice))
    return checks


def _engine_choice() -> Check:
    """Which engine `auto` would take for the default model, and what each of the others lacks."""
    from ros2_tracker.engines.load import EngineSettings, list_options
    from ros2_tracker.models.variant import load_variant

    name = "engine: auto"
    try:
        options = list_options(load_variant("default"), EngineSettings())
    except Exception as error:  # whatever is wrong is what the doctor is asked for
        return Check(name, Verdict.PROBLEM, _one_line(error))
    ready = [option.label for option in options if not option.missing]
    lacking = "; ".join(f"{option.label}: {option.missing}" for option in options if option.missing)
    if not ready:
        return Check(name, Verdict.PROBLEM, f"nothing can run the default model ({lacking})")
    return Check(name, Verdict.OK, f"takes {ready[0]} for the default model ({lacking})")


def _engine_cache() -> Check:
    """What was built for this machine, and whether it can be trusted."""
    from ros2_tracker.engines.base import EngineError
    from ros2_tracker.engines.cache import EngineCache

    name = "engine cache"
    try:
        cache = EngineCache()
        entries = cache.entries()
    except (EngineError, OSError) as error:
        return Check(name, Verdict.PROBLEM, str(error))
    broken = [f"{entry.path.name}: {entry.problem}" for entry in entries if entry.problem]
    if broken:
        return Check(name, Verdict.PROBLEM, "; ".join(broken), "it will be built anew when it is needed")
    mebibytes = sum(entry.size for entry in entries) / _MIB
    return Check(name, Verdict.OK, f"{cache.folder}: {len(entries)} engines, {mebibytes:.0f} MiB")


def _ros_checks() -> list[Check]:
    found = _import_in_child(["rclpy", *MESSAGE_PACKAGES, "cv_bridge"])
    distro = os.environ.get("ROS_DISTRO", "")
    loads, detail = found["rclpy"]
    if not loads:
        advice = "only needed for the ROS node: source a ROS 2, or pip install 'ros2-tracker[ros]'"
        return [_not_loaded("ROS 2 (rclpy)", "rclpy", detail, advice)]
    checks = [Check("ROS 2 (rclpy)", Verdict.OK, f"{distro or 'no ROS_DISTRO set'}, middleware {detail}")]
    missing = {name: found[name][1] for name in MESSAGE_PACKAGES if not found[name][0]}
    if missing:
        name, why = next(iter(missing.items()))
        packages = sorted(n.split(".")[0] for n in missing)
        advice = (
            "build and source this package's workspace (colcon build), or install it again with pip"
            if packages == ["ros2_tracker"]
            else f"rosdep install --from-paths . --ignore-src, or apt install the packages of {', '.join(packages)}"
        )
        detail = f"missing: {', '.join(packages)} ({name}: {why})"
        checks.append(Check("ROS messages", Verdict.PROBLEM, detail, advice))
    else:
        checks.append(Check("ROS messages", Verdict.OK, ", ".join(name.split(".")[0] for name in MESSAGE_PACKAGES)))
    if "fastrtps" in found["rclpy"][1]:
        checks.append(_fast_dds_profile())
    there = "installed" if found["cv_bridge"][0] else "not installed"
    checks.append(Check("cv_bridge", Verdict.OK, f"{there}; not used by this package"))
    return checks


def _fast_dds_profile() -> Check:
    from ros2_tracker.ros.environment import fast_dds_profile_variable, share_file

    name = "Fast DDS profile"
    wanted = fast_dds_profile_variable(os.environ.get("ROS_DISTRO"))
    variables = [f"{prefix}_DEFAULT_PROFILES_FILE" for prefix in ("FASTDDS", "FASTRTPS")]
    named = {variable: os.environ[variable] for variable in variables if variable in os.environ}
    if not named:
        try:
            profile = str(share_file(Path("config") / "fastdds_profile.xml"))
        except FileNotFoundError:
            profile = "a profile with a shared-memory segment of 64 MiB"
        return Check(
            name,
            Verdict.PROBLEM,
            "none in this shell: large images over best-effort topics from cameras started here do not arrive",
            f"export {wanted}={profile}, before the camera's driver starts, too; or use reliable image topics",
        )
    if len(named) == 2 and wanted.startswith("FASTDDS"):
        return Check(
            name,
            Verdict.PROBLEM,
            "FASTDDS_DEFAULT_PROFILES_FILE and FASTRTPS_DEFAULT_PROFILES_FILE are both set: it loads twice, and fails",
            "unset FASTRTPS_DEFAULT_PROFILES_FILE",
        )
    absent = [f"{variable}={path}" for variable, path in named.items() if not Path(path).is_file()]
    if absent:
        return Check(name, Verdict.PROBLEM, f"no such file: {', '.join(absent)}", "correct the environment variable")
    return Check(name, Verdict.OK, ", ".join(f"{variable}={path}" for variable, path in named.items()))


def _shared_memory() -> Check:
    name = "shared memory"
    try:
        stat = os.statvfs("/dev/shm")
    except OSError as error:
        return Check(name, Verdict.PROBLEM, _one_line(error), "mount a tmpfs on /dev/shm: ROS sends images through it")
    size, free = (blocks * stat.f_frsize // _MIB for blocks in (stat.f_blocks, stat.f_bavail))
    detail = f"/dev/shm: {free} of {size} MiB free"
    if free >= _SHM_WANTED_MIB:
        return Check(name, Verdict.OK, detail)
    advice = f"give it {_SHM_WANTED_MIB} MiB (in Docker: --shm-size=512m or --ipc=host), or remove stale files there"
    return Check(name, Verdict.PROBLEM, detail, advice)


def _not_loaded(name: str, module: str, error: str, advice: str) -> Check:
    """Absent when there is no such module, a problem when it is there and does not load."""
    if error == f"ModuleNotFoundError: No module named '{module}'":
        return Check(name, Verdict.ABSENT, "not installed", advice)
    return Check(name, Verdict.PROBLEM, f"installed, but does not load: {error}", "reinstall it, or source its set-up")


def _import_in_child(modules: list[str]) -> dict[str, tuple[bool, str]]:
    """Module -> (whether it imports, version or error)."""
    root = str(Path(__file__).resolve().parent.parent)
    found = dict.fromkeys(modules, (False, "the import ended the interpreter"))
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, root, *modules],
            capture_output=True,
            text=True,
            timeout=_CHILD_TIMEOUT_S,
            check=False,
        )
        output = child.stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout.decode(errors="replace") if expired.stdout else ""
        found = dict.fromkeys(modules, (False, f"the import took more than {_CHILD_TIMEOUT_S:g} s"))
    for line in output.splitlines():
        try:
            name, loads, detail = json.loads(line)
        except ValueError:
            continue  # something that a module printed
        if name in found:
            found[name] = (loads, detail)
    return found


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
