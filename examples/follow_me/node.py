"""The follow-me node: a thin shell around `control.Follower`.

Every status is answered by a command at once; a timer of steady time commands zero when no measured status has come for
`status_timeout`, and goes on doing so. On its way out the node commands zero once more.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist, TwistStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from ros2_tracker.msg import TrackStatus
from sensor_msgs.msg import CameraInfo

from ros2_tracker.ros import qos

from . import parameters
from .control import STOP, BadStatus, Command, Fault, Follower
from .sighting import Camera, sighting_of

_WATCHDOG_PERIOD_S = 0.04
_DIAGNOSTICS_PERIOD_S = 1.0
_LOG_PERIOD_S = 2.0
_FAREWELL = Duration(seconds=0.5)
"""How long the node waits on its way out until the last zero has arrived everywhere."""


class FollowMe(Node):
    """Follows one target of `tracker/status`; docs/follow_me.md lists topics and parameters."""

    def __init__(self) -> None:
        """Declare parameters; ValueError or ParameterException when one of them is not valid."""
        super().__init__("follow_me")
        self._settings = parameters.declare(self)
        self._follower = Follower(self._settings.law)
        self._camera: Camera | None = None
        self._target_id = ""
        self._measured_at_s = -float("inf")
        """Steady time of the last measured status that was followed."""
        self._why = "no status yet"
        self._command = STOP
        self._faults = dict.fromkeys((fault.value for fault in Fault), 0)
        self._timeouts = 0
        self._commands = self.create_publisher(TwistStamped, "cmd_vel", qos.RESULT)
        self._unstamped = self.create_publisher(Twist, "cmd_vel_unstamped", qos.RESULT)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, qos.SENSOR)
        self.create_subscription(TrackStatus, "tracker/status", self._on_status, qos.STATUS)
        self.add_on_set_parameters_callback(self._on_parameters)
        # Steady: a simulation that pauses, or a clock that is set back, must not keep the vehicle going.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_WATCHDOG_PERIOD_S, self._watch, clock=steady)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._report, clock=steady)

    def command_stop(self, why: str) -> None:
        """Command zero; the next command begins with a ramp."""
        self._why = why
        self._publish(self._follower.stop())

    def say_goodbye(self) -> bool:
        """Command zero for the last time; whether all reliable subscribers have it.

        A writer that is destroyed does not send again what was lost on the way: the vehicle's driver would be left with
        the command before.
        """
        self.command_stop("shut down")
        received = [each.wait_for_all_acked(_FAREWELL) for each in (self._commands, self._unstamped)]
        return all(received)

    # -- input --------------------------------------------------------------------------------------------------

    def _on_camera_info(self, msg: CameraInfo) -> None:
        try:
            self._camera = Camera.from_info(msg, self._settings["camera_pitch"], self._settings["camera_yaw"])
        except ValueError as error:
            self._camera = None
            self.get_logger().warning(str(error), throttle_duration_sec=_LOG_PERIOD_S)

    def _on_status(self, msg: TrackStatus) -> None:
        if not self._settings["enabled"] or not self._is_ours(msg):
            return
        try:
            sighting = sighting_of(msg, self._camera)
            command = self._follower.follow(sighting, self.get_clock().now().nanoseconds / 1e9)
        except BadStatus as bad:
            self._refuse(bad)
            return
        if sighting.measured:
            self._measured_at_s = time.monotonic()
        elif self._overdue():
            return  # predictions steer, but only measurements keep the vehicle going
        self._why = f"{sighting.state.name} {msg.id}"
        self._publish(command)

    def _is_ours(self, msg: TrackStatus) -> bool:
        """Whether this is the target to follow; with no id set, the first one until it has been silent."""
        wanted = self._settings["target_id"]
        if wanted:
            return msg.id == wanted
        if msg.id != self._target_id and self._overdue():
            self._target_id = msg.id
        return msg.id == self._target_id

    def _refuse(self, bad: BadStatus) -> None:
        self._faults[bad.fault.value] += 1
        if bad.fault is Fault.TIME_JUMP:
            self._follower.restart()
        self.command_stop(f"{bad.fault.name}: {bad}")
        self.get_logger().warning(f"status not followed: {bad}", throttle_duration_sec=_LOG_PERIOD_S)

    def _on_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        result, self._settings = parameters.judge_change(self._settings, changes)
        self._follower.settings = self._settings.law
        if not self._settings["enabled"]:
            self._follower.restart()
            self.command_stop("not enabled")
        return result

    # -- output -------------------------------------------------------------------------------------------------

    def _overdue(self) -> bool:
        return time.monotonic() - self._measured_at_s > self._settings.law.status_timeout

    def _watch(self) -> None:
        if not self._overdue():
            return
        if self._command != STOP:
            self._timeouts += 1
            self.get_logger().warning(
                f"no measured status for {self._settings.law.status_timeout:g} s: command zero",
                throttle_duration_sec=_LOG_PERIOD_S,
            )
        self.command_stop("no status" if self._settings["enabled"] else "not enabled")

    def _publish(self, command: Command) -> None:
        self._command = command
        msg = TwistStamped()
        msg.header.stamp = self.get_clock().now().to_msg()
        msg.header.frame_id = self._settings["frame_id"]
        msg.twist.linear.x, msg.twist.linear.z = command.forward, command.climb
        msg.twist.angular.z = command.yaw_rate
        self._commands.publish(msg)
        if self._unstamped.get_subscription_count():
            self._unstamped.publish(msg.twist)

    def _report(self) -> None:
        faults = sum(self._faults.values())
        moving = self._command != STOP
        values: dict[str, Any] = {
            "forward_m_s": round(self._command.forward, 3),
            "climb_m_s": round(self._command.climb, 3),
            "yaw_rate_rad_s": round(self._command.yaw_rate, 3),
            "authority": round(self._follower.authority, 3),
            "timeouts": self._timeouts,
            **self._faults,
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if faults or self._timeouts else DiagnosticStatus.OK,
            name=f"{self.get_name()}: command",
            message=f"{'moving' if moving else 'zero'}: {self._why}",
            hardware_id=self.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; exit status 1 when a parameter is not valid."""
    # rclpy's own handlers would shut ROS down before the last zero is out, and a KeyboardInterrupt may come anywhere in
    # what is being done. So the loop looks whether it is to end; the watchdog wakes it. `ros2 launch` asks twice.
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: asked.append(number))
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f"follow_me: {error}", file=sys.stderr)
        return 1
    try:
        node = FollowMe()
    except (ValueError, ParameterException) as error:
        print(f"follow_me: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not asked:
            executor.spin_once()
        if not node.say_goodbye():
            node.get_logger().warning("not every subscriber has confirmed the last command, zero")
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
