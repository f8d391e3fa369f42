"""The session: which frame a target begins on, which comes next, and what is told when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import cycle

import cv2
import numpy as np
import pytest

from ros2_tracker.tracking import session as session_module
from ros2_tracker.tracking.events import EventType, FramePrediction, FrameReport, InitRequest, Reason, TargetEvent
from ros2_tracker.tracking.frame import ArrayFrame, FrameError
from ros2_tracker.tracking.frame_buffer import NANOSECONDS, StampedFrame
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.session import TrackingSession
from ros2_tracker.tracking.settings import EgoMotionSettings, ReliabilitySettings, SessionSettings, TargetSettings
from ros2_tracker.tracking.target import Target

PERIOD_NS = NANOSECONDS // 30
START_NS = 1000 * NANOSECONDS


def stamp_of(index: int) -> int:
    return START_NS + index * PERIOD_NS


# A camera that gives the same image again is taken to be stuck.
_FLICKER = cycle((40, 41, 42))


def box_of(index: int) -> tuple[float, float, float, float]:
    """Where the blob is in frame `index`."""
    return (60.0 + 2 * index, 80.0, 24.0, 20.0)


def picture(index: int, visible: bool = True) -> ArrayFrame:
    image = np.full((240, 320, 3), next(_FLICKER), np.uint8)
    if visible:
        x, y, w, h = (int(v) for v in box_of(index))
        image[y : y + h, x : x + w] = 250
    return ArrayFrame(image)


class HookedFrame(ArrayFrame):
    """Frame 0 that calls `hook` when a target is about to begin on it."""

    def __init__(self, hook: Callable[[], None]) -> None:
        super().__init__(picture(0).pixels)
        object.__setattr__(self, "hook", hook)

    def bgr(self):
        self.hook()
        return super().bgr()


class Bench:
    """A session with its observer, a clock that tests set, and shorthands."""

    def __init__(self, network: TrackingNetwork, **settings: object) -> None:
        self.now_ns = START_NS
        self.events: list[TargetEvent] = []
        self.reports: list[FrameReport] = []
        self.predictions: list[FramePrediction] = []
        self.told: list[TargetEvent | FrameReport | FramePrediction] = []
        """All of them in the order in which they came."""
        self.failures: list[tuple[str, Exception]] = []
        self.session = TrackingSession(network, SessionSettings(**settings), self, lambda: self.now_ns)

    def on_event(self, event: TargetEvent) -> None:
        self.events.append(event)
        self.told.append(event)

    def on_report(self, report: FrameReport) -> None:
        self.reports.append(report)
        self.told.append(report)

    def on_prediction(self, prediction: FramePrediction) -> None:
        self.predictions.append(prediction)
        self.told.append(prediction)

    def on_failure(self, what: str, error: Exception) -> None:
        self.failures.append((what, error))

    def push(self, index: int, frame: ArrayFrame | None = None, stamp_ns: int | None = None) -> None:
        stamp_ns = stamp_of(index) if stamp_ns is None else stamp_ns
        self.now_ns = max(self.now_ns, stamp_ns)
        self.session.push(StampedFrame(stamp_ns, frame or picture(index), 1000, tag=f"header {index}"))

    def work(self) -> None:
        """Until there is nothing left to do."""
        for _ in range(1000):
            if not self.session.work(0.0):
                return
        raise AssertionError("the session never comes to rest")

    def play(self, first: int, last: int, visible: bool = True) -> None:
        for index in range(first, last + 1):
            self.push(index, picture(index, visible))
            self.work()

    def init(self, index: int | None = 0, target_id: str = "", box: tuple | None = None) -> None:
        """Ask for the blob as it is in frame `index`; None: the newest frame."""
        stamp_ns = 0 if index is None else stamp_of(index)
        self.session.request_init(InitRequest(box or box_of(index or 0), target_id, stamp_ns, tag="request"))

    def types(self) -> list[EventType]:
        return [event.type for event in self.events]

    def predicted_frames(self) -> list[int]:
        """Numbers of the frames that predictions were made for."""
        return [round((p.source.stamp_ns - START_NS) / PERIOD_NS) for p in self.predictions]

    @property
    def counters(self):
        return self.session.counters


@pytest.fixture
def bench(blob_network: TrackingNetwork) -> Bench:
    return Bench(blob_network)


# -- beginning --------------------------------------------------------------------------------------------------------


def test_box_before_the_first_image_is_held(bench: Bench):
    bench.init(None)
    assert not bench.session.work(0.0)
    assert bench.events == []
    bench.push(0)
    bench.work()
    (event,) = bench.events
    assert (event.type, event.target_id, event.session) == (EventType.INITIALIZED, "target_1", 1)
    assert (event.stamp_ns, event.tag) == (stamp_of(0), "header 0")
    bench.play(1, 5)
    last = bench.reports[-1]
    assert (last.source.stamp_ns, last.source.tag) == (stamp_of(5), "header 5")
    assert iou(Box(*last.targets[0].result.box), Box(*box_of(5))) > 0.8


def test_init_frame_itself_is_not_searched(bench: Bench, blob_engine):
    bench.init(None)
    bench.push(0)
    bench.work()
    assert blob_engine.runs == 0
    assert [r.targets for r in bench.reports] == [()]


def test_box_on_an_older_frame_begins_there_and_catches_up(bench: Bench):
    bench.play(0, 9)
    # At its place in frame 2; in frame 9 the blob is somewhere else.
    bench.init(2)
    bench.work()
    assert [e.stamp_ns for e in bench.events] == [stamp_of(2)]
    assert bench.counters.catch_up_frames == 7
    report = bench.reports[-1]
    assert report.source.stamp_ns == stamp_of(9)
    assert iou(Box(*report.targets[0].result.box), Box(*box_of(9))) > 0.8
    answered = [r for r in bench.reports if r.targets]
    assert len(answered) == 1, "only the newest frame is answered, not those caught up with"
    bench.play(10, 12)
    assert bench.reports[-1].source.stamp_ns == stamp_of(12)
    assert bench.reports[-1].targets[0].result.state is TrackState.TRACKING


def test_box_far_behind_leaves_frames_out_to_reach_the_newest_in_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session_module, "_CATCH_UP_S", 0.0)
    bench.play(0, 9)
    bench.init(2)
    bench.work()
    assert bench.counters.catch_up_frames == 1
    assert bench.reports[-1].source.stamp_ns == stamp_of(9)
    assert iou(Box(*bench.reports[-1].targets[0].result.box), Box(*box_of(9))) > 0.7


def test_images_that_come_while_catching_up_are_caught_up_with_too(bench: Bench):
    bench.play(0, 9)
    bench.init(2)
    for index in range(10, 14):
        bench.session.work(0.0)
        bench.push(index)
    bench.work()
    assert bench.reports[-1].source.stamp_ns == stamp_of(13)
    assert iou(Box(*bench.reports[-1].targets[0].result.box), Box(*box_of(13))) > 0.8


def test_loss_while_catching_up_is_told(bench: Bench):
    bench.play(0, 2)
    bench.play(3, 30, visible=False)
    bench.init(2)
    bench.work()
    assert bench.types() == [EventType.INITIALIZED, EventType.UNCERTAIN, EventType.LOST]


def test_stamp_a_little_off_takes_the_nearest_frame_and_says_so(bench: Bench):
    bench.play(0, 5)
    bench.session.request_init(InitRequest(box_of(3), "a", stamp_of(3) - 1_000_000))
    bench.work()
    assert bench.events[0].stamp_ns == stamp_of(3)
    assert "+1.0 ms" in bench.events[0].text


def test_box_that_overtook_its_image_waits_for_it(bench: Bench):
    bench.play(0, 3)
    bench.init(5)
    bench.work()
    assert bench.events == []
    bench.play(4, 5)
    assert bench.types() == [EventType.INITIALIZED]
    assert bench.events[0].stamp_ns == stamp_of(5)


def test_target_that_began_on_a_newer_image_is_not_shown_an_older_one(bench: Bench):
    bench.push(0, HookedFrame(lambda: bench.push(1) if bench.counters.images_received == 1 else None))
    bench.init(0, "first")
    bench.init(None, "second", box_of(1))
    bench.work()
    assert [e.stamp_ns for e in bench.events] == [stamp_of(0), stamp_of(1)]
    for report in bench.reports:
        for target in report.targets:
            assert target.target_id == "first" or report.source.stamp_ns > stamp_of(1)


def test_same_id_begins_anew_with_a_higher_session(bench: Bench):
    bench.play(0, 3)
    bench.init(None, "car", box_of(3))
    bench.work()
    bench.play(4, 20, visible=False)
    assert bench.reports[-1].targets[0].result.state is TrackState.LOST
    bench.push(21)
    bench.init(21, "car")
    bench.work()
    bench.play(22, 23)
    assert bench.session.target_ids == ["car"]
    assert [e.session for e in bench.events if e.type is EventType.INITIALIZED] == [1, 2]
    target = bench.reports[-1].targets[0]
    assert (target.session, target.result.state) == (2, TrackState.TRACKING)


def test_unnamed_targets_get_names_that_are_free(bench: Bench):
    bench.push(0)
    for target_id in ("target_1", "", ""):
        bench.init(0, target_id)
    bench.work()
    assert bench.session.target_ids == ["target_1", "target_2", "target_3"]


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "reason", "named"),
    [
        (InitRequest(box_of(0), "a", START_NS - 2 * NANOSECONDS), Reason.STAMP_TOO_OLD, "2.300 s older"),
        (InitRequest(box_of(0), "a", START_NS + 2 * NANOSECONDS), Reason.STAMP_IN_FUTURE, "1.700 s newer"),
        (InitRequest((400.0, 80.0, 24.0, 20.0), "a"), Reason.BOX_OUTSIDE_IMAGE, "(400, 80, 24, 20)"),
        (InitRequest((float("nan"), 80.0, 24.0, 20.0), "a"), Reason.BOX_INVALID, "nan"),
        (InitRequest((60.0, 80.0, 0.0, 20.0), "a"), Reason.BOX_INVALID, "(60, 80, 0, 20)"),
        (InitRequest(box_of(0), "x" * 129), Reason.ID_INVALID, "129 characters"),
        (InitRequest(box_of(0), "a\n"), Reason.ID_INVALID, "printable"),
    ],
    ids=["too old", "in future", "outside", "nan", "empty", "long id", "unprintable id"],
)
def test_refused_box_is_told_why_and_changes_nothing(
    bench: Bench, request_: InitRequest, reason: Reason, named: str
):
    bench.push(0)
    bench.init(0, "kept")
    bench.work()
    bench.play(1, 9)
    bench.events.clear()
    bench.session.request_init(request_)
    bench.work()
    (event,) = bench.events
    assert (event.type, event.reason) == (EventType.REJECTED, reason)
    assert named in event.text
    assert event.target_id == request_.target_id[:128]
    assert bench.session.target_ids == ["kept"]
    assert bench.counters.inits_rejected == 1
    bench.play(10, 12)
    assert bench.reports[-1].targets[0].result.state is TrackState.TRACKING


def test_more_targets_than_allowed_are_refused(blob_network: TrackingNetwork):
    bench = Bench(blob_network, max_targets=2)
    bench.push(0)
    for target_id in ("a", "b", "c", "a"):
        bench.init(0, target_id)
    bench.work()
    assert bench.types() == [EventType.INITIALIZED] * 2 + [EventType.REJECTED, EventType.INITIALIZED]
    assert bench.events[2].reason is Reason.TOO_MANY_TARGETS
    assert "a, b" in bench.events[2].text


def test_targets_share_one_run_of_the_network(bench: Bench, blob_engine):
    bench.push(0)
    for target_id in ("a", "b", "c"):
        bench.init(0, target_id)
    bench.work()
    before = blob_engine.runs
    bench.play(1, 3)
    assert blob_engine.runs == before + 3
    results = [report.result for report in bench.reports[-1].targets]
    assert len(results) == 3
    assert all(iou(Box(*result.box), Box(*box_of(3))) > 0.8 for result in results)


def test_what_can_wait_is_done_when_the_answer_is_out(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    settle, reports = Target.settle, []

    def noted(target: Target) -> None:
        reports.append(len(bench.reports))
        settle(target)

    bench.play(0, 0)
    bench.init()
    bench.work()
    monkeypatch.setattr(Target, "settle", noted)
    before = len(bench.reports)
    bench.play(1, 2)
    # Each frame asks for it once more at its beginning, where nothing is left.
    assert reports == [before, before + 1, before + 1, before + 2]


def test_answer_that_is_broken_for_one_target_leaves_the_others(bench: Bench, blob_engine):
    bench.push(0)
    for target_id in ("a", "b"):
        bench.init(0, target_id)
    bench.work()
    answer = blob_engine._answer

    def first_broken(search):
        found = answer(search)
        if not broken:
            broken.append(True)
            found["score_map"] = np.full_like(found["score_map"], np.nan)
        return found

    broken: list[bool] = []
    blob_engine._answer = first_broken
    bench.play(1, 1)
    assert [report.target_id for report in bench.reports[-1].targets] == ["b"]
    assert bench.counters.update_failures == 1
    bench.play(2, 2)
    assert [report.target_id for report in bench.reports[-1].targets] == ["a", "b"]


class BrokenFrame(ArrayFrame):
    """Its pixels cannot be had."""

    def __init__(self, error: Exception) -> None:
        super().__init__(picture(0).pixels)
        object.__setattr__(self, "error", error)

    @property
    def height(self) -> int:
        raise self.error

    def region(self, *corners: int):
        raise self.error


def test_box_on_an_image_that_cannot_be_decoded(bench: Bench):
    bench.push(0, BrokenFrame(FrameError("truncated")))
    bench.init(0, "a")
    bench.work()
    assert [(e.type, e.reason) for e in bench.events] == [(EventType.REJECTED, Reason.IMAGE_INVALID)]
    assert "truncated" in bench.events[0].text


def test_bug_while_beginning_is_reported_and_survived(bench: Bench):
    bench.push(0, BrokenFrame(ZeroDivisionError("a bug")))
    bench.init(0, "a")
    bench.work()
    assert bench.events[0].reason is Reason.INTERNAL_ERROR
    assert isinstance(bench.failures[0][1], ZeroDivisionError)
    bench.push(1)
    bench.init(1, "a")
    bench.work()
    assert bench.types()[-1] is EventType.INITIALIZED


def test_boxes_do_not_pile_up_without_images(bench: Bench):
    for i in range(70):
        bench.init(None, f"t{i}")
    assert [e.reason for e in bench.events] == [Reason.TOO_MANY_TARGETS] * 6
    assert [e.target_id for e in bench.events] == [f"t{i}" for i in range(6)]


# -- cancelling -------------------------------------------------------------------------------------------------------


def test_cancel_one_and_all(bench: Bench):
    bench.push(0)
    for target_id in ("a", "b", "c"):
        bench.init(0, target_id)
    bench.work()
    assert bench.session.cancel("b") == ["b"]
    assert bench.session.cancel("nobody") == []
    assert bench.session.target_ids == ["a", "c"]
    assert sorted(bench.session.cancel()) == ["a", "c"]
    assert bench.session.target_ids == []
    assert [e.target_id for e in bench.events if e.type is EventType.CANCELLED] == ["b", "a", "c"]
    bench.play(1, 2)
    assert bench.reports[-1].targets == ()


def test_box_that_waits_is_cancelled_too(bench: Bench):
    bench.init(None, "a")
    assert bench.session.cancel() == ["a"]
    bench.play(0, 1)
    assert bench.session.target_ids == []
    assert EventType.INITIALIZED not in bench.types()


def test_box_that_is_being_started_is_cancelled_too(bench: Bench):
    cancelled: list[str] = []
    bench.push(0, HookedFrame(lambda: cancelled.extend(bench.session.cancel())))
    bench.init(0, "a")
    bench.work()
    assert cancelled == ["a"]
    assert bench.session.target_ids == []
    assert EventType.INITIALIZED not in bench.types()


def test_nothing_is_told_after_a_cancel_in_the_middle_of_an_update(bench: Bench, blob_engine):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    inside, go_on = threading.Event(), threading.Event()

    def wait_in_network() -> None:
        inside.set()
        assert go_on.wait(10.0)

    blob_engine.before_run = wait_in_network
    bench.push(1)
    worker = threading.Thread(target=bench.session.work, args=(0.0,))
    worker.start()
    try:
        assert inside.wait(10.0)
        started = time.monotonic()
        assert bench.session.cancel() == ["a"]
        assert time.monotonic() - started < 1.0, "cancelling does not wait for the network"
        told = (len(bench.events), [r for r in bench.reports if r.targets])
    finally:
        go_on.set()
        worker.join(10.0)
    assert (len(bench.events), [r for r in bench.reports if r.targets]) == told


def test_result_of_a_replaced_target_is_not_reported(bench: Bench, blob_engine):
    bench.push(0)
    bench.init(0, "a")
    bench.work()

    def replace() -> None:
        blob_engine.before_run = lambda: None
        bench.session.cancel("a")

    blob_engine.before_run = replace
    bench.push(1)
    bench.work()
    assert bench.reports[-1].targets == ()


# -- images -----------------------------------------------------------------------------------------------------------


def test_image_that_is_too_old_on_arrival_is_dropped(bench: Bench):
    bench.now_ns = stamp_of(0) + NANOSECONDS
    bench.push(0)
    bench.work()
    assert bench.counters.images_too_old == 1
    assert bench.reports == []
    assert bench.session.buffered == (0, 0)


def test_image_that_aged_in_the_queue_is_dropped(bench: Bench):
    bench.push(0)
    bench.now_ns += NANOSECONDS
    bench.work()
    assert bench.counters.images_too_old == 1
    assert bench.reports == []


def test_zero_age_limit_means_any_age(blob_network: TrackingNetwork):
    bench = Bench(blob_network, max_image_age=0.0)
    bench.now_ns = stamp_of(0) + 3600 * NANOSECONDS
    bench.push(0)
    bench.work()
    assert len(bench.reports) == 1


def test_late_image_is_dropped(bench: Bench):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.push(3)
    bench.push(2)
    bench.work()
    assert bench.counters.images_out_of_order == 1
    assert [r.source.stamp_ns for r in bench.reports] == [stamp_of(0), stamp_of(3)]


def test_image_with_a_repeated_stamp_is_dropped(bench: Bench):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.push(1)
    bench.work()
    bench.push(1)
    bench.work()
    assert bench.counters.images_out_of_order == 1
    assert [r.source.stamp_ns for r in bench.reports] == [stamp_of(0), stamp_of(1)]


def test_newer_image_replaces_one_that_was_not_taken(bench: Bench):
    for index in range(4):
        bench.push(index)
    bench.work()
    assert bench.counters.images_superseded == 3
    assert [r.source.stamp_ns for r in bench.reports] == [stamp_of(3)]


def test_image_from_the_future_is_answered_and_counted(bench: Bench):
    bench.session.push(StampedFrame(stamp_of(0) + NANOSECONDS, picture(0), 1000))
    bench.work()
    assert bench.counters.images_in_future == 1
    assert len(bench.reports) == 1


def test_clock_that_jumps_back_empties_the_buffer_and_keeps_the_target(blob_network: TrackingNetwork):
    bench = Bench(blob_network, max_image_age=0.0)
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.play(1, 5)
    for index in range(6, 10):
        bench.push(index, stamp_ns=stamp_of(index) - 100 * NANOSECONDS)
        bench.work()
    assert bench.counters.time_jumps == 1
    assert bench.session.buffered[0] == 4
    last = bench.reports[-1]
    assert last.source.stamp_ns == stamp_of(9) - 100 * NANOSECONDS
    assert last.targets[0].result.state is TrackState.TRACKING
    assert iou(Box(*last.targets[0].result.box), Box(*box_of(9))) > 0.8


def test_image_that_cannot_be_decoded_is_counted_and_the_target_goes_on(bench: Bench):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.push(1, BrokenFrame(FrameError("truncated")))
    bench.work()
    assert bench.counters.images_broken == 1
    assert str(bench.failures[0][1]) == "truncated"
    bench.play(2, 3)
    assert bench.reports[-1].targets[0].result.state is TrackState.TRACKING


def test_broken_image_met_again_while_catching_up_is_counted_once(bench: Bench):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.push(1, BrokenFrame(FrameError("truncated")))
    bench.work()
    bench.play(2, 4)
    bench.init(0, "b")
    bench.work()
    assert bench.counters.images_broken == 1
    assert bench.counters.catch_up_frames == 4
    assert {t.target_id for t in bench.reports[-1].targets} == {"a", "b"}


def test_failing_network_is_counted_and_survived(bench: Bench, blob_engine):
    bench.push(0)
    bench.init(0, "a")
    bench.work()

    def fail() -> None:
        raise MemoryError("out of memory")

    blob_engine.before_run = fail
    bench.push(1)
    bench.work()
    assert bench.counters.update_failures == 1
    assert isinstance(bench.failures[0][1], MemoryError)
    blob_engine.before_run = lambda: None
    bench.play(2, 3)
    assert bench.reports[-1].targets[0].result.state is TrackState.TRACKING


# -- several targets, states, settings --------------------------------------------------------------------------------


def test_targets_are_reported_together_also_one_that_has_just_caught_up(bench: Bench):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.play(1, 6)
    bench.init(3, "b")
    bench.work()
    assert bench.reports[-1].source.stamp_ns == stamp_of(6)
    assert sorted(t.target_id for t in bench.reports[-1].targets) == ["a", "b"]
    bench.play(7, 7)
    assert sorted(t.target_id for t in bench.reports[-1].targets) == ["a", "b"]


def test_changes_of_state_are_events_on_their_frame(bench: Bench):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.play(1, 5)
    bench.play(6, 25, visible=False)
    # It comes back where it left.
    for index in range(26, 100):
        bench.push(index, picture(5))
        bench.work()
    assert bench.types() == [EventType.INITIALIZED, EventType.UNCERTAIN, EventType.LOST, EventType.RECOVERED]
    uncertain, lost, recovered = bench.events[1:]
    assert uncertain.stamp_ns < lost.stamp_ns < recovered.stamp_ns
    assert "TRACKING -> UNCERTAIN" in uncertain.text
    assert recovered.duration == pytest.approx((recovered.stamp_ns - uncertain.stamp_ns) / NANOSECONDS, abs=0.05)
    lost_report = next(r for r in bench.reports if r.source.stamp_ns == lost.stamp_ns)
    assert lost_report.targets[0].result.box is None


def test_new_settings_reach_targets_and_buffer(bench: Bench):
    bench.push(0)
    bench.init(0, "a")
    bench.work()
    bench.play(1, 10)
    at_once = ReliabilitySettings(uncertain_after=0.0, lost_after=0.0)
    bench.session.apply_settings(
        SessionSettings(TargetSettings(reliability=at_once), max_targets=1, frame_buffer_duration=0.1)
    )
    assert bench.session.buffered[0] == 4
    bench.play(11, 11, visible=False)
    assert bench.types()[-1] is EventType.LOST
    bench.init(None, "b", box_of(11))
    bench.work()
    assert bench.events[-1].reason is Reason.TOO_MANY_TARGETS


def test_work_waits_for_something_to_do_and_can_be_woken(bench: Bench):
    started = time.monotonic()
    assert not bench.session.work(0.05)
    assert time.monotonic() - started >= 0.04
    threading.Timer(0.05, bench.session.wake).start()
    assert not bench.session.work(10.0)
    assert time.monotonic() - started < 5.0


def test_many_threads_and_one_worker(bench: Bench):
    """Images, boxes and cancels from three threads: nothing is reported of a target after its cancel has returned."""
    stop = threading.Event()
    worker = threading.Thread(target=lambda: [bench.session.work(0.01) for _ in iter(stop.is_set, True)])
    worker.start()

    def camera() -> None:
        for index in range(60):
            bench.push(index)
            time.sleep(0.002)

    sender = threading.Thread(target=camera)
    sender.start()
    broken_promises = 0
    for i in range(20):
        bench.init(None, f"t{i}", box_of(min(3 * i, 59)))
        time.sleep(0.005)
        bench.session.cancel()
        reports, events = len(bench.reports), len(bench.events)
        time.sleep(0.002)
        broken_promises += sum(bool(r.targets) for r in bench.reports[reports:])
        broken_promises += sum(e.type is not EventType.REJECTED for e in bench.events[events:])
    sender.join(10.0)
    stop.set()
    bench.session.wake()
    worker.join(10.0)
    assert broken_promises == 0
    assert bench.failures == []


# -- prediction -------------------------------------------------------------------------------------------------------


def while_working(bench: Bench, engine, first: int, act: Callable[[], None]) -> None:
    """Have frame `first` answered, and `act` done while the network is at it."""

    def once() -> None:
        engine.before_run = lambda: None
        act()

    engine.before_run = once
    bench.push(first)
    bench.session.work(0.0)


@pytest.fixture
def followed(bench: Bench) -> Bench:
    """The blob, followed up to frame 12."""
    bench.init(None)
    bench.play(0, 12)
    assert bench.predictions == []
    return bench


def test_frames_that_come_while_the_worker_is_busy_are_predicted_at_once(followed: Bench, blob_engine):
    while_working(followed, blob_engine, 13, lambda: [followed.push(i) for i in (14, 15, 16)])
    assert followed.predicted_frames() == [14, 15, 16]
    assert followed.counters.images_predicted == 3
    assert followed.counters.images_superseded == 2
    last = followed.reports[-2].targets[0].result  # of frame 12: the answer to 13 came after the predictions
    deviation = 0.0
    for prediction, index in zip(followed.predictions, (14, 15, 16), strict=True):
        assert prediction.source.tag == f"header {index}"
        assert prediction.processing_s >= 0.0
        (target,) = prediction.targets
        assert (target.target_id, target.session, target.state) == ("target_1", 1, TrackState.TRACKING)
        assert iou(target.estimate.box, Box(*box_of(index))) > 0.8
        error = target.estimate.box.cx - Box(*box_of(index)).cx
        assert abs(error) < 3.0 * target.estimate.x.position_variance**0.5
        assert 0.0 < target.reliability < last.reliability
        assert target.estimate.x.position_variance**0.5 > deviation
        deviation = target.estimate.x.position_variance**0.5
    followed.work()
    # The newest of them is measured all the same.
    assert [r.source.stamp_ns for r in followed.reports[-2:]] == [stamp_of(13), stamp_of(16)]
    assert followed.predicted_frames() == [14, 15, 16]


def test_a_frame_that_the_worker_did_not_wake_up_for_is_predicted_when_the_next_comes(followed: Bench):
    followed.push(13)
    assert followed.predictions == []
    followed.push(14)
    followed.push(15)
    assert followed.predicted_frames() == [13, 14]
    followed.work()
    assert followed.reports[-1].source.stamp_ns == stamp_of(15)
    assert followed.predicted_frames() == [13, 14]


def test_every_frame_has_an_answer_and_none_is_predicted_late(followed: Bench, blob_engine):
    """A network at a third of the camera's rate."""
    for first in range(13, 43, 3):
        while_working(followed, blob_engine, first, lambda i=first: [followed.push(i + 1), followed.push(i + 2)])
    followed.work()
    measured = {r.source.stamp_ns for r in followed.reports}
    assert measured | {p.source.stamp_ns for p in followed.predictions} == {stamp_of(i) for i in range(43)}
    newest_ns = 0
    for told in followed.told:
        if isinstance(told, FrameReport):
            newest_ns = max(newest_ns, told.source.stamp_ns)
        elif isinstance(told, FramePrediction):
            assert told.source.stamp_ns > newest_ns
    assert followed.predicted_frames() == sorted(set(followed.predicted_frames()))


def test_no_prediction_where_it_is_switched_off(followed: Bench, blob_engine):
    followed.session.apply_settings(SessionSettings(predict_at_camera_rate=False))
    while_working(followed, blob_engine, 13, lambda: followed.push(14))
    followed.work()
    assert followed.predictions == []
    assert followed.counters.images_predicted == 0


def test_a_cancelled_target_is_not_predicted(followed: Bench, blob_engine):
    def cancel_and_push() -> None:
        followed.push(14)
        followed.session.cancel()
        followed.push(15)

    while_working(followed, blob_engine, 13, cancel_and_push)
    assert followed.predicted_frames() == [14]
    assert isinstance(followed.told[-3], FramePrediction)
    assert followed.told[-2].type is EventType.CANCELLED
    assert followed.reports[-1].targets == ()


def test_a_target_is_predicted_from_its_first_answer_on(bench: Bench, blob_engine):
    bench.init(None)
    bench.push(0)
    bench.work()
    while_working(bench, blob_engine, 1, lambda: [bench.push(2), bench.push(3)])
    assert bench.predictions == []
    while_working(bench, blob_engine, 4, lambda: bench.push(5))
    assert bench.predicted_frames() == [5]


def test_a_target_that_begins_anew_is_not_predicted_from_before(followed: Bench, blob_engine):
    while_working(followed, blob_engine, 13, lambda: followed.init(None, "target_1", box_of(13)))
    followed.session.work(0.0)
    assert followed.types()[-1] is EventType.INITIALIZED
    while_working(followed, blob_engine, 14, lambda: followed.push(15))
    assert followed.predictions == []
    while_working(followed, blob_engine, 16, lambda: followed.push(17))
    assert {t.session for p in followed.predictions for t in p.targets} == {2}


def test_a_clock_that_jumps_back_predicts_nothing(followed: Bench, blob_engine):
    early_ns = stamp_of(0) - 10 * NANOSECONDS

    def jump() -> None:
        followed.now_ns = early_ns
        followed.session.push(StampedFrame(early_ns, picture(13), 1000))

    while_working(followed, blob_engine, 13, jump)
    assert followed.counters.time_jumps == 1
    assert followed.predictions == []


def test_predictions_stop_when_the_last_answer_is_too_old_to_tell(followed: Bench, blob_engine):
    while_working(followed, blob_engine, 13, lambda: [followed.push(14), followed.push(60)])
    assert followed.predicted_frames() == [14]


def test_predictions_keep_their_place_among_the_answers_of_a_real_worker(blob_network, blob_engine):
    """A camera five times as fast as the network, on threads of their own, with a target cancelled on the way."""
    bench = Bench(blob_network, max_image_age=0.0)
    bench.init(None, "kept")
    bench.init(None, "dropped", box_of(0))
    bench.push(0)
    bench.work()
    blob_engine.before_run = lambda: time.sleep(0.01)
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            bench.session.work(0.05)

    worker = threading.Thread(target=work)
    worker.start()
    for index in range(1, 201):
        bench.push(index % 100, stamp_ns=stamp_of(index))
        if index == 100:
            bench.session.cancel("dropped")
            mark = len(bench.told)
        time.sleep(0.002)
    stopping.set()
    bench.session.wake()
    worker.join()
    assert len(bench.predictions) > 20
    assert len(bench.reports) > 5
    newest_ns = 0
    for told in bench.told:
        if isinstance(told, FrameReport):
            newest_ns = max(newest_ns, told.source.stamp_ns)
        elif isinstance(told, FramePrediction):
            assert told.source.stamp_ns > newest_ns
    stamps = [p.source.stamp_ns for p in bench.predictions]
    assert stamps == sorted(set(stamps))
    later = [told for told in bench.told[mark:] if not isinstance(told, TargetEvent)]
    assert {t.target_id for told in later for t in told.targets} == {"kept"}


# -- a camera that moves ----------------------------------------------------------------------------------------------


def view_of(scene: np.ndarray, left: int) -> ArrayFrame:
    return ArrayFrame(np.ascontiguousarray(scene[:, left : left + 320]))


def followed_by_panning(bench: Bench) -> list[float]:
    """A blob that stands still in a textured scene which passes by at 45 px a frame; how far off its centre is, px."""
    rng, scene = np.random.default_rng(4), np.zeros((240, 800, 3), np.uint8)
    for cell in (60, 20, 8):  # as real scenes have it, coarse and fine
        noise = rng.integers(0, 46, (240 // cell, 800 // cell, 3)).astype(np.uint8)
        scene += cv2.resize(noise, (800, 240), interpolation=cv2.INTER_LINEAR)
    scene[110:130, 300:324] = 250
    lefts = [20, 20, 65, 110, 155, 200, 245]
    bench.init(None, box=(280.0, 110.0, 24.0, 20.0))
    for index, left in enumerate(lefts):
        bench.push(index, view_of(scene, left))
        bench.work()
    centres = [Box(*report.targets[0].result.candidate).cx for report in bench.reports[1:]]
    return [abs(centre - (312 - left)) for centre, left in zip(centres, lefts[1:], strict=True)]


def test_the_search_goes_along_with_a_camera_that_is_seen_to_move(blob_network: TrackingNetwork):
    target = TargetSettings(ego_motion=EgoMotionSettings(enabled=True))
    bench = Bench(blob_network, target=target)
    assert max(followed_by_panning(bench)) < 4.0
    assert bench.failures == []
    assert bench.counters.ego_motion_unknown == 0
    # Without it the blob leaves the place that is searched.
    assert max(followed_by_panning(Bench(blob_network))) > 20.0


def test_a_background_that_says_nothing_is_counted_and_tracking_goes_on(blob_network: TrackingNetwork):
    bench = Bench(blob_network, target=TargetSettings(ego_motion=EgoMotionSettings(enabled=True)))
    bench.init(None)
    bench.play(0, 10)
    assert bench.counters.ego_motion_unknown > 5
    assert iou(Box(*bench.reports[-1].targets[0].result.box), Box(*box_of(10))) > 0.8
