"""Parameters: config/tracker.yaml against the code, refusals with their reasons, and changes on the running node."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

import rclpy
from lifecycle_msgs.msg import Transition
from node_process import Client
from rcl_interfaces.msg import ParameterType, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters, SetParametersAtomically
from rclpy.context import Context
from rclpy.parameter import Parameter, parameter_value_to_python
from ros2_tracker.msg import TrackEvent
from scene import box_at, render

from ros2_tracker.models.variant import load_variant
from ros2_tracker.ros import parameters
from ros2_tracker.ros.parameters import PARAMETERS, Declared, NodeSettings
from ros2_tracker.tracking.settings import MotionSettings

YAML = Path(__file__).resolve().parents[2] / "config" / "tracker.yaml"
DEFAULTS = {name: declared.default for name, declared in PARAMETERS.items()}
NUMBERS = {
    n: d for n, d in PARAMETERS.items() if isinstance(d.default, (int, float)) and not isinstance(d.default, bool)
}
AT = (100, 90)


def yaml_values() -> dict[str, Any]:
    """Name -> value of config/tracker.yaml."""
    return yaml.safe_load(YAML.read_text(encoding="utf-8"))["/**"]["ros__parameters"]


def yaml_comments() -> dict[str, str]:
    """Name -> the comment above it."""
    comments, block = {}, []
    for line in (line.strip() for line in YAML.read_text(encoding="utf-8").splitlines()):
        if line.startswith("#"):
            block.append(line.lstrip("# "))
            continue
        if found := re.fullmatch(r"([a-z_.]+): .+", line):
            comments[found[1]] = " ".join(block)
        block = []
    return comments


def another(declared: Declared) -> bool | int | float | str:
    """A valid value that is not the default."""
    default = declared.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        # Keeps the thresholds in order.
        return default * 0.9 if default else 1.0
    return next((c for c in declared.choices if c != default), "cpu" if default == "auto" else "other.onnx")


# -- config/tracker.yaml --------------------------------------------------------------------------------------------


def test_yaml_holds_every_parameter_at_its_default():
    assert yaml_values() == DEFAULTS
    assert {name: type(value) for name, value in yaml_values().items()} == {n: type(v) for n, v in DEFAULTS.items()}


@pytest.mark.parametrize("name", PARAMETERS)
def test_yaml_says_what_each_parameter_does(name: str):
    declared, comment = PARAMETERS[name], yaml_comments()[name]
    assert len(comment) > 40
    assert comment.startswith("[live] ") == declared.live
    if name in NUMBERS:
        assert f"{declared.low:.10g} to {declared.high:.10g}" in comment
    if name != "model":
        assert all(choice in comment for choice in declared.choices)


def test_every_value_of_a_params_file_arrives(tmp_path: Path):
    changed = {name: another(declared) for name, declared in PARAMETERS.items()}
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": changed}}))
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context)
    try:
        node = rclpy.create_node("tracker", context=context, enable_rosout=False)
        assert dict(parameters.declare(node).values) == changed
        node.destroy_node()
    finally:
        context.try_shutdown()


def test_names_that_are_no_parameters_are_pointed_out(tmp_path: Path):
    file = tmp_path / "misspelt.yaml"
    given = {"reliability.lost_befow": 0.1, "colour": "red", "use_sim_time": True, "max_targets": 3}
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": given}}))
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context)
    try:
        node = rclpy.create_node("tracker", context=context, enable_rosout=False)
        parameters.declare(node)
        assert sorted(parameters.misspelt(node)) == [
            "there is no parameter colour",
            "there is no parameter reliability.lost_befow: is reliability.lost_below meant?",
        ]
        node.destroy_node()
    finally:
        context.try_shutdown()


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_targets": "three"}, "max_targets is 'three', must be of type int"),
        ({"max_targets": 2.0}, "max_targets is 2.0, must be of type int"),
        ({"max_targets": True}, "max_targets is True, must be of type int"),
        ({"max_targets": 0}, "max_targets is 0, must be within [1, 64]"),
        ({"autostart": 1}, "autostart is 1, must be of type bool"),
        ({"weights": None}, "weights is None, must be of type str"),
        ({"max_image_age": "1 s"}, "max_image_age is '1 s', must be of type float"),
        ({"max_image_age": -0.1}, "max_image_age is -0.1, must be within [0, 3600]"),
        ({"max_image_age": math.nan}, "max_image_age is nan, must be within [0, 3600]"),
        ({"max_image_age": math.inf}, "max_image_age is inf, must be within [0, 3600]"),
        ({"reliability.lost_below": 20}, "reliability.lost_below is 20.0, must be within [0, 1]"),
        ({"motion.acceleration": -1.0}, "motion.acceleration is -1.0, must be within [0, 10000]"),
        ({"motion.acceleration": 1e-5}, "motion.acceleration is 1e-05, must be within [0.0001, 10000]"),
        ({"model": "vot2030"}, "model is 'vot2030', must be one of default, "),
        ({"engine": "abacus"}, "engine is 'abacus', must be one of auto, tensorrt"),
        ({"image_transport": "theora"}, "image_transport is 'theora', must be one of raw, compressed"),
        ({"qos.image.reliability": "maybe"}, "qos.image.reliability is 'maybe', must be one of best_effort, reliable"),
        (
            {"reliability.lost_below": 0.6},
            "reliability thresholds must be ordered lost_below <= uncertain_below <= tracking_above, "
            "got 0.6, 0.45, 0.6",
        ),
        (
            {"reliability.uncertain_below": 0.7},
            "reliability thresholds must be ordered lost_below <= uncertain_below <= tracking_above, got 0.4, 0.7, 0.6",
        ),
    ],
)
def test_refusal_says_what_is_wrong(changes: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match="^" + re.escape(reason)):
        NodeSettings.from_values({**DEFAULTS, **changes})


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_themselves_are_accepted_and_what_lies_beyond_is_not(name: str):
    declared = PARAMETERS[name]
    for limit, beyond in ((declared.low, -1), (declared.high, 1)):
        kind = type(declared.default)
        assert declared.checked(name, kind(limit)) == limit
        with pytest.raises(ValueError, match=f"^{re.escape(name)} is "):
            declared.checked(name, kind(limit + beyond))


def test_noise_of_motion_is_the_models_own_unless_it_is_set(monkeypatch: pytest.MonkeyPatch):
    own = replace(load_variant("default"), motion={"acceleration": 3.0, "size_rate": 0.7})
    monkeypatch.setattr(parameters, "load_variant", lambda name: own)
    settings = NodeSettings.from_values({**DEFAULTS, "motion.size_rate": 0.5, "motion.size_noise": 0.2})
    assert settings.session.target.motion == MotionSettings(acceleration=3.0, size_rate=0.5, size_noise=0.2)


def test_int_is_taken_for_a_float():
    settings = NodeSettings.from_values({**DEFAULTS, "max_image_age": 1, "reliability.tracking_above": 1})
    assert settings["max_image_age"] == 1.0
    assert isinstance(settings["max_image_age"], float)
    assert settings.session.max_image_age == 1.0
    assert settings.session.target.reliability.tracking_above == 1.0


@pytest.mark.parametrize("name", [name for name, declared in PARAMETERS.items() if not declared.live])
def test_what_configure_reads_stays_until_the_node_is_cleaned_up(name: str):
    current, change = NodeSettings.from_values(DEFAULTS), [Parameter(name, value=another(PARAMETERS[name]))]

    result, settings = parameters.judge_change(current, change, configured=True)
    assert not result.successful
    assert result.reason == f"{name} is read by configure: deactivate and clean up the node first"
    assert settings is current

    result, settings = parameters.judge_change(current, change, configured=False)
    assert result.successful
    assert settings[name] == another(PARAMETERS[name])


@pytest.mark.parametrize("name", [name for name, declared in PARAMETERS.items() if declared.live])
def test_live_parameter_can_be_changed_while_configured(name: str):
    value = another(PARAMETERS[name])
    result, settings = parameters.judge_change(
        NodeSettings.from_values(DEFAULTS), [Parameter(name, value=value)], configured=True
    )
    assert result.successful, result.reason
    assert settings[name] == value
    assert {n: v for n, v in settings.values.items() if n != name} == {n: v for n, v in DEFAULTS.items() if n != name}


def test_setting_the_value_that_holds_already_is_accepted_while_configured():
    current = NodeSettings.from_values(DEFAULTS)
    result, _ = parameters.judge_change(current, [Parameter("model", value="default")], configured=True)
    assert result.successful


def test_parameters_of_others_are_left_alone():
    current = NodeSettings.from_values(DEFAULTS)
    result, settings = parameters.judge_change(current, [Parameter("use_sim_time", value=True)], configured=True)
    assert result.successful
    assert settings == current


# -- the running node -----------------------------------------------------------------------------------------------


class Remote:
    """Parameter services of the node under test."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def _call(self, kind: type, name: str, request: Any) -> Any:
        service = self.client.node.create_client(kind, f"tracker/{name}")
        self.client.wait(f"the service {name}", service.service_is_ready)
        try:
            return self.client.call(service, request)
        finally:
            self.client.node.destroy_client(service)

    def set(self, name: str, value: Any) -> SetParametersResult:
        """As `ros2 param set`."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self._call(SetParameters, "set_parameters", request).results[0]

    def set_together(self, **values: Any) -> SetParametersResult:
        """Change several of `reliability` at once, or none."""
        messages = [Parameter(f"reliability.{n}", value=v).to_parameter_msg() for n, v in values.items()]
        request = SetParametersAtomically.Request(parameters=messages)
        return self._call(SetParametersAtomically, "set_parameters_atomically", request).result

    def get(self, *names: str) -> list[Any]:
        values = self._call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values
        return [parameter_value_to_python(value) for value in values]

    def describe(self, *names: str) -> list[Any]:
        return self._call(
            DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names)
        ).descriptors


@pytest.fixture(scope="module")
def shared_remote(start_module_node: Any) -> Remote:
    # max_image_age is the test machine's patience, not what is tested; an integer, as YAML files have it.
    return Remote(start_module_node({"max_image_age": 10}))


@pytest.fixture
def remote(shared_remote: Remote) -> Iterator[Remote]:
    """The active node, at its defaults again when the test has ended."""
    yield shared_remote
    shared_remote.client.cancel()
    reset = {n.removeprefix("reliability."): v for n, v in DEFAULTS.items() if n.startswith("reliability.")}
    assert shared_remote.set_together(**reset).successful


def test_thresholds_changed_at_run_time_hold_for_the_target_being_followed(remote: Remote):
    client = remote.client
    # A camera that repeats one image is taken to be stuck.
    images = cycle([render(AT), render((AT[0] + 1, AT[1]))])

    def watch(kind: int) -> TrackEvent:
        def happened() -> TrackEvent | None:
            client.publish(next(images))
            return next((e for e in client.events.since(mark) if e.type == kind and e.id == "it"), None)

        return client.wait(f"event {kind}", happened)

    mark = client.events.mark
    client.publish(next(images))
    client.init(box_at(*AT), "it")
    watch(TrackEvent.INITIALIZED)

    # Nothing is as reliable as that.
    assert remote.set_together(lost_below=1.0, uncertain_below=1.0, tracking_above=1.0).successful
    assert "LOST" in watch(TrackEvent.LOST).text

    assert remote.set_together(lost_below=0.2, uncertain_below=0.4, tracking_above=0.6).successful
    watch(TrackEvent.RECOVERED)


def test_max_targets_changed_at_run_time_holds_for_the_next_box(remote: Remote):
    client = remote.client
    assert remote.set("max_targets", 1).successful
    try:
        mark = client.events.mark
        client.publish(render(AT))
        client.init(box_at(*AT), "one")
        client.event(TrackEvent.INITIALIZED, "one", mark)
        client.init(box_at(*AT), "two")
        assert client.event(TrackEvent.REJECTED, "two", mark).reason == TrackEvent.TOO_MANY_TARGETS
    finally:
        assert remote.set("max_targets", DEFAULTS["max_targets"]).successful


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("reliability.lost_below", 0.9, "must be ordered lost_below <= uncertain_below <= tracking_above"),
        ("reliability.lost_below", "low", "reliability.lost_below is 'low', must be of type float"),
        ("max_targets", "three", "max_targets is 'three', must be of type int"),
        ("max_targets", 2.0, "max_targets is 2.0, must be of type int"),
        # These two in the words of rclpy, which knows the declared ranges.
        ("reliability.lost_below", 1.5, "reliability.lost_below"),
        ("reliability.lost_below", math.nan, "reliability.lost_below"),
        ("engine", "onnxruntime", "engine is read by configure: deactivate and clean up the node first"),
        ("model", "multistage-tiny", "model is read by configure: deactivate and clean up the node first"),
    ],
)
def test_running_node_refuses_with_the_reason_and_keeps_its_value(remote: Remote, name: str, value: Any, reason: str):
    before = remote.get(name)
    result = remote.set(name, value)
    assert not result.successful
    assert reason in result.reason
    assert remote.get(name) == before


def test_one_wrong_value_keeps_all_of_a_change_out(remote: Remote):
    assert not remote.set_together(lost_after=1.0, tracking_above=0.1).successful
    assert remote.get("reliability.lost_after") == [DEFAULTS["reliability.lost_after"]]


def test_int_for_a_float_is_taken_at_start_and_at_run_time(remote: Remote):
    assert remote.get("max_image_age") == [10]
    assert remote.set("reliability.lost_after", 2).successful
    assert remote.get("reliability.lost_after") == [2]


def test_a_parameter_cannot_be_deleted(remote: Remote):
    request = Parameter("reliability.lost_after", type_=Parameter.Type.NOT_SET).to_parameter_msg()
    result = remote._call(SetParameters, "set_parameters", SetParameters.Request(parameters=[request])).results[0]
    assert not result.successful
    assert remote.get("reliability.lost_after") == [DEFAULTS["reliability.lost_after"]]


def test_ranges_and_choices_are_described(remote: Remote):
    threshold, targets, engine = remote.describe("reliability.lost_below", "max_targets", "engine")
    assert (threshold.floating_point_range[0].from_value, threshold.floating_point_range[0].to_value) == (0.0, 1.0)
    assert (targets.integer_range[0].from_value, targets.integer_range[0].to_value) == (1, 64)
    assert engine.type == ParameterType.PARAMETER_STRING
    assert engine.additional_constraints == "one of: " + ", ".join(PARAMETERS["engine"].choices)
    assert all(d.description for d in (threshold, targets, engine))


def test_cleaned_up_node_takes_what_configure_reads(start_node: Any):
    client = start_node({"autostart": False, "model": "onestream-192"}, active=False)
    remote = Remote(client)
    assert client.change_state(Transition.TRANSITION_CONFIGURE)
    assert not remote.set("model", "default").successful
    assert client.change_state(Transition.TRANSITION_CLEANUP)
    assert remote.set("model", "default").successful
    assert remote.get("model") == ["default"]
