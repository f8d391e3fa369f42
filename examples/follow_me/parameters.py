"""The node's parameters: those of the control law, and how the node is wired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from ros2_tracker.ros.parameters import Declared

from .control import FollowSettings

PARAMETERS: Mapping[str, Declared] = {
    "enabled": Declared(True, "false: command zero whatever the tracker says", live=True),
    "target_id": Declared("", "follow this target alone; empty: the one that was heard first", live=True),
    "frame_id": Declared("base_link", "frame of the commands: x forward, y left, z up"),
    "camera_pitch": Declared(0.0, "rad that the camera looks down, fixed to the body", -math.pi / 2, math.pi / 2),
    "camera_yaw": Declared(0.0, "rad that the camera looks to the left, fixed to the body", -math.pi, math.pi),
    **{
        each.name: Declared(
            each.default, each.metadata["text"], each.metadata["low"], each.metadata["high"], live=True
        )
        for each in fields(FollowSettings)
    },
}
_LAW = tuple(each.name for each in fields(FollowSettings))


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The parameters' values, checked."""

    values: Mapping[str, Any]
    law: FollowSettings

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NodeSettings:
        """Settings from name -> value; ValueError names the parameter that is wrong."""
        checked = {name: declared.checked(name, values[name]) for name, declared in PARAMETERS.items()}
        return cls(checked, FollowSettings(**{name: checked[name] for name in _LAW}))

    def __getitem__(self, name: str) -> Any:
        """Value of one parameter."""
        return self.values[name]


def declare(node: Node) -> NodeSettings:
    """Declare all parameters; ValueError or ParameterException when one is not valid."""
    for name, declared in PARAMETERS.items():
        node.declare_parameter(name, declared.default, declared.descriptor())
    return NodeSettings.from_values({name: node.get_parameter(name).value for name in PARAMETERS})


def judge_change(
    current: NodeSettings, changes: Sequence[Parameter]
) -> tuple[SetParametersResult, NodeSettings]:
    """Whether a change of parameters is accepted, with the reason where not, and the settings that hold then."""
    values = dict(current.values)
    for parameter in changes:
        declared = PARAMETERS.get(parameter.name)
        if declared is None:
            continue  # use_sim_time and others that rclpy looks after itself
        if not declared.live and parameter.value != values[parameter.name]:
            return SetParametersResult(successful=False, reason=f"{parameter.name} is read at the start"), current
        values[parameter.name] = parameter.value
    try:
        return SetParametersResult(successful=True), NodeSettings.from_values(values)
    except ValueError as error:
        return SetParametersResult(successful=False, reason=str(error)), current
