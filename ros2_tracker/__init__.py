"""Follow one object through camera images and say how far the answer can be trusted.

This module is the front door: the ROS-free Python API. The ROS 2 node is `ros2_tracker.node`.
"""

from __future__ import annotations

from pkgutil import extend_path

# Messages are generated beside an installed copy of this package; this lets a source tree find them there.
__path__ = extend_path(__path__, __name__)

from ros2_tracker.tracking.result import TrackResult, TrackState
from ros2_tracker.tracking.tracker import Tracker

__version__ = "0.1.0"
__all__ = ["TrackResult", "TrackState", "Tracker", "__version__"]
