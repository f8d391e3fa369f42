"""The environment variables that ROS processes of ours are started with."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import MutableMapping
from pathlib import Path

_PROFILE = Path("config") / "fastdds_profile.xml"


def share_file(relative: Path) -> Path:
    """A file of config/ or launch/: in the source tree, or where pip or colcon installed it."""
    package = Path(__file__).resolve().parent.parent
    candidates = [package.parent / relative, Path(sysconfig.get_path("data")) / "share" / "ros2_tracker" / relative]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(prefix) / "share" / "ros2_tracker" / relative for prefix in prefixes if prefix]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{relative} of ros2_tracker is not installed; looked in {', '.join(map(str, candidates))}")


def fast_dds_profile_variable(distribution: str | None) -> str:
    """The variable that names a Fast DDS profile file in a ROS distribution; None: an unsourced one, the newest.

    Fast DDS 3 (Kilted) reads FASTDDS_..., Fast DDS 2 (Humble, Jazzy) FASTRTPS_...; with both set, version 3 loads
    the file twice and ends up with neither.
    """
    fast_dds_2 = distribution in ("humble", "iron", "jazzy")
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if fast_dds_2 else "FASTDDS_DEFAULT_PROFILES_FILE"


def use_large_image_profile(environment: MutableMapping[str, str]) -> str | None:
    """Name our Fast DDS profile in an environment that names none; returns the file, None if one was named already.

    Must happen before rclpy.init.
    """
    if any(name in environment for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")):
        return None
    profile = str(share_file(_PROFILE))
    environment[fast_dds_profile_variable(environment.get("ROS_DISTRO"))] = profile
    return profile


def isolate(environment: MutableMapping[str, str]) -> None:
    """Keep discovery on this machine and, unless the user chose one, in a random domain of its own."""
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # 101 is the highest domain whose ports are free of the ephemeral range on every platform.
    environment.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 101)))
