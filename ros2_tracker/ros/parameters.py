"""The node's parameters: declared with ranges, validated with a reason for each refusal, read into settings.

config/tracker.yaml says what each one does to the node's behaviour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from ros2_tracker.engines.base import ENGINES, PRECISIONS
from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.models.variant import load_variant, variant_names
from ros2_tracker.tracking.settings import (
    DistractorSettings,
    EgoMotionSettings,
    LearningSettings,
    RecoverySettings,
    ReliabilitySettings,
    SessionSettings,
    TargetSettings,
    TemplateUpdateSettings,
    default_settings,
    target_settings,
)

_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Declared:
    """One parameter: its default, what it may be, and when a change takes effect."""

    default: bool | int | float | str
    description: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    live: bool = False
    """Whether it can be changed while the node is configured; the others are read by `configure`."""

    def descriptor(self) -> ParameterDescriptor:
        """For `declare_parameter`, so that tools can show ranges."""
        # `checked` looks at types: rclpy would refuse `max_image_age: 1`, and does not say which parameter is wrong.
        descriptor = ParameterDescriptor(description=self.description, dynamic_typing=True)
        bounded = math.isfinite(self.low) and math.isfinite(self.high)
        if isinstance(self.default, float):
            if bounded:
                descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
        elif isinstance(self.default, int) and not isinstance(self.default, bool) and bounded:
            descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high))]
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        return descriptor

    def checked(self, name: str, value: Any) -> bool | int | float | str:
        """The value as this parameter's type; ValueError naming parameter and value if it cannot be."""
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"{name} is {value!r}, must be of type {kind.__name__}")
        if kind in (int, float) and not self.low <= value <= self.high:
            raise ValueError(f"{name} is {value!r}, must be within [{self.low:g}, {self.high:g}]")
        if self.choices and value not in self.choices:
            raise ValueError(f"{name} is {value!r}, must be one of {', '.join(self.choices)}")
        return value  # type: ignore[no-any-return]


_R, _E, _S = ReliabilitySettings(), EgoMotionSettings(), SessionSettings()
_T, _L, _F, _D = TemplateUpdateSettings(), LearningSettings(), RecoverySettings(), DistractorSettings()
_GROUPS = tuple(f"{group.name}." for group in fields(TargetSettings))
_MODELS_OWN = 0.0
"""A noise of motion that is left to the model, whatever its file says."""

PARAMETERS: Mapping[str, Declared] = {
    "autostart": Declared(True, "configure and activate at start"),
    "tune_malloc": Declared(True, "keep image buffers instead of giving them back to the kernel after each frame"),
    "model": Declared("default", "model variant", choices=("default", *variant_names())),
    "weights": Declared("", "another weights file for the model; empty: the variant's own"),
    "engine": Declared("auto", "what runs the network", choices=ENGINES),
    "precision": Declared("auto", "arithmetic of the network", choices=PRECISIONS),
    "device": Declared("auto", "auto, cpu, cuda or cuda:N"),
    "engine_cache_dir": Declared("", "folder of built engines; empty: the user's own"),
    "compile": Declared(False, "let torch fuse operations on a GPU"),
    "threads": Declared(0, "CPU threads of the network; 0: the engine chooses", 0, 64),
    "image_transport": Declared("raw", "raw: image; compressed: image/compressed", choices=("raw", "compressed")),
    "qos.image.reliability": Declared(
        "best_effort", "QoS of the image subscription", choices=("best_effort", "reliable")
    ),
    "max_image_age": Declared(_S.max_image_age, "s; older images are not answered; 0: any age", 0.0, 3600.0, live=True),
    "frame_buffer_duration": Declared(
        _S.frame_buffer_duration, "s of images kept for boxes drawn on an older one", 0.0, 600.0, live=True
    ),
    "frame_buffer_megabytes": Declared(
        _S.frame_buffer_bytes // _MEBIBYTE, "MiB that those images may take", 0, 1 << 20, live=True
    ),
    "max_targets": Declared(_S.max_targets, "targets followed at once", 1, 64, live=True),
    "init_point.topic": Declared("", "geometry_msgs/PointStamped to follow, as RViz's /clicked_point; empty: off"),
    "init_point.object_size": Declared(1.0, "m, of the object at such a point", 0.001, 1000.0, live=True),
    "init_click.topic": Declared("", "geometry_msgs/Point in px, as rqt_image_view's; empty: off"),
    "init_click.default_size": Declared(0.15, "of a box, in shorter sides of the image", 0.01, 1.0, live=True),
    "init_click.time_budget": Declared(0.1, "s to look for the object's outline; 0: not at all", 0.0, 10.0, live=True),
    "init_normalized.topic": Declared("", "geometry_msgs/PolygonStamped, corners 0 to 1; empty: off"),
    "init_mavlink.service": Declared("", "mavros_msgs/srv/GimbalManagerCameraTrack; empty: off"),
    "image_timeout": Declared(2.0, "s without an image until diagnostics warn", 0.1, 3600.0, live=True),
    "debug.max_rate": Declared(10.0, "Hz, upper bound of ~/debug_image", 0.1, 240.0, live=True),
    "reliability.tracking_above": Declared(_R.tracking_above, "found again from here", 0.0, 1.0, live=True),
    "reliability.uncertain_below": Declared(_R.uncertain_below, "a guess under this", 0.0, 1.0, live=True),
    "reliability.lost_below": Declared(_R.lost_below, "gone under this", 0.0, 1.0, live=True),
    "reliability.uncertain_after": Declared(_R.uncertain_after, "s under uncertain_below", 0.0, 60.0, live=True),
    "reliability.lost_after": Declared(_R.lost_after, "s under lost_below", 0.0, 60.0, live=True),
    "reliability.recover_after": Declared(_R.recover_after, "s over tracking_above", 0.0, 60.0, live=True),
    "reliability.frozen_after": Declared(_R.frozen_after, "s of the same image; 0: never", 0.0, 60.0, live=True),
    "motion.acceleration": Declared(_MODELS_OWN, "sizes/s^2; 0: the model's own", 0.0, 1e4, live=True),
    "motion.size_rate": Declared(_MODELS_OWN, "1/s; 0: the model's own", 0.0, 1e4, live=True),
    "motion.position_noise": Declared(_MODELS_OWN, "sizes; 0: the model's own", 0.0, 1e4, live=True),
    "motion.size_noise": Declared(_MODELS_OWN, "sizes; 0: the model's own", 0.0, 1e4, live=True),
    "template_update.enabled": Declared(_T.enabled, "learn the target's look while reliable", live=True),
    "template_update.above": Declared(_T.above, "reliability of what is learnt from", 0.0, 1.0, live=True),
    "template_update.after": Declared(_T.after, "s that reliability was there", 0.0, 3600.0, live=True),
    "template_update.interval": Declared(_T.interval, "s between two updates", 0.0, 3600.0, live=True),
    "template_update.weight": Declared(_T.weight, "of the recent view against the first", 0.0, 1.0, live=True),
    "template_update.rollback_within": Declared(
        _T.rollback_within, "s in which an update can be taken back", 0.0, 3600.0, live=True
    ),
    "learning.enabled": Declared(_L.enabled, "learn what tells the target from the rest", live=True),
    "learning.weight": Declared(_L.weight, "of what was learnt against the network", 0.0, 1.0, live=True),
    "learning.above": Declared(_L.above, "reliability of what is learnt from", 0.0, 1.0, live=True),
    "learning.interval": Declared(_L.interval, "s between two lessons", 0.0, 60.0, live=True),
    "learning.half_life": Declared(_L.half_life, "s after which a lesson counts half", 0.01, 3600.0, live=True),
    "learning.drawn": Declared(_L.drawn, "how far boxes are made like the one drawn", 0.0, 1.0, live=True),
    "recovery.enabled": Declared(_F.enabled, "search the image for a LOST target", live=True),
    "recovery.windows_per_image": Declared(_F.windows_per_image, "further places for each image", 0, 64, live=True),
    "recovery.growth": Declared(_F.growth, "of the search around the last place, sides/s", 0.0, 100.0, live=True),
    "recovery.zoom": Declared(_F.zoom, "side of the search at most, in usual ones", 1.0, 8.0, live=True),
    "recovery.candidate_above": Declared(_F.candidate_above, "score of a find worth a look", 0.0, 1.0, live=True),
    "recovery.accept_above": Declared(_F.accept_above, "reliability of a find that is taken", 0.0, 1.0, live=True),
    "recovery.accept_likeness": Declared(_F.accept_likeness, "to what was lost, of such a find", 0.0, 1.0, live=True),
    "recovery.guess_after": Declared(_F.guess_after, "s until a lesser find is UNCERTAIN", 0.0, 60.0, live=True),
    "recovery.accept_after": Declared(_F.accept_after, "s that it was there", 0.0, 60.0, live=True),
    "distractors.enabled": Declared(_D.enabled, "keep look-alikes apart from the target", live=True),
    "distractors.above": Declared(_D.above, "score of a look-alike, share of the best", 0.0, 1.0, live=True),
    "distractors.memory": Declared(_D.memory, "s that an unseen one is remembered", 0.0, 60.0, live=True),
    "ego_motion.enabled": Declared(_E.enabled, "look for the camera's own motion in the background", live=True),
    "prediction.at_camera_rate": Declared(
        _S.predict_at_camera_rate, "answer images that come while the network is busy by the motion model", live=True
    ),
    "prediction.in_tracks": Declared(False, "put predicted boxes into ~/tracks as well", live=True),
}


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The parameters' values, checked one by one and together."""

    values: Mapping[str, Any]
    engine: EngineSettings
    session: SessionSettings

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NodeSettings:
        """Settings from name -> value; ValueError names the parameter that is wrong."""
        checked = {name: declared.checked(name, values[name]) for name, declared in PARAMETERS.items()}
        session = SessionSettings(
            target=_target_settings(checked),
            max_targets=int(checked["max_targets"]),
            max_image_age=float(checked["max_image_age"]),
            frame_buffer_duration=float(checked["frame_buffer_duration"]),
            frame_buffer_bytes=int(checked["frame_buffer_megabytes"]) * _MEBIBYTE,
            predict_at_camera_rate=bool(checked["prediction.at_camera_rate"]),
        )
        engine = EngineSettings(
            engine=checked["engine"],
            precision=checked["precision"],
            weights=checked["weights"] or None,
            threads=checked["threads"],
            device=checked["device"],
            cache_dir=checked["engine_cache_dir"] or None,
            compiled=checked["compile"],
        )
        return cls(checked, engine, session)

    def __getitem__(self, name: str) -> Any:
        """Value of one parameter."""
        return self.values[name]


def _target_settings(values: Mapping[str, Any]) -> TargetSettings:
    """Every parameter of a group of TargetSettings; what is left to the model comes from its file."""
    chosen = {name: value for name, value in values.items() if name.startswith(_GROUPS)}
    for name in [n for n, value in chosen.items() if n.startswith("motion.") and value == _MODELS_OWN]:
        del chosen[name]
    return target_settings(chosen, default_settings(load_variant(values["model"])))


def declare(node: Node) -> NodeSettings:
    """Declare all parameters on a node and read what its YAML and command line set.

    Raises:
        ValueError: a value is out of range or does not fit another one.
        rclpy.exceptions.ParameterException: a value is out of a declared range.

    """
    for name, declared in PARAMETERS.items():
        node.declare_parameter(name, declared.default, declared.descriptor())
    return NodeSettings.from_values({name: node.get_parameter(name).value for name in PARAMETERS})


def misspelt(node: Node) -> list[str]:
    """What the YAML or the command line sets and no parameter of ours is called, one text each.

    rclpy ignores such names. A file for several nodes (`/**`) may hold others' parameters, so they are no errors.
    """
    # No public way to it up to Kilted.
    overrides: Iterable[str] = getattr(node, "_parameter_overrides", ())
    texts = []
    for name in overrides:
        if node.has_parameter(name) or name.startswith("qos_overrides."):
            continue
        near = get_close_matches(name, PARAMETERS, 1)
        texts.append(f"there is no parameter {name}" + (f": is {near[0]} meant?" if near else ""))
    return texts


def judge_change(
    current: NodeSettings, changes: Iterable[Parameter], configured: bool
) -> tuple[SetParametersResult, NodeSettings]:
    """Whether a change of parameters is accepted, with the reason where not, and the settings that hold then."""
    values = dict(current.values)
    for parameter in changes:
        declared = PARAMETERS.get(parameter.name)
        if declared is None:
            continue  # use_sim_time and others that rclpy looks after itself
        if configured and not declared.live and parameter.value != values[parameter.name]:
            reason = f"{parameter.name} is read by configure: deactivate and clean up the node first"
            return SetParametersResult(successful=False, reason=reason), current
        values[parameter.name] = parameter.value
    try:
        return SetParametersResult(successful=True), NodeSettings.from_values(values)
    except ValueError as error:
        return SetParametersResult(successful=False, reason=str(error)), current
