"""The session: which frame a target begins on, which comes next, and what is told when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from ros2_tracker.tracking import session as session_module
from ros2_tracker.tracking.events import EventType, FrameReport, InitRequest, Reason, TargetEvent
from ros2_tracker.tracking.frame import ArrayFrame, FrameError
from ros2_tracker.tracking.frame_buffer import NANOSECONDS, StampedFrame
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.session import TrackingSession
from ros2_tracker.tracking.settings import ReliabilitySettings, SessionSettings, TargetSettings

PERIOD_NS = NANOSECONDS // 30
START_NS = 1000 * NANOSECONDS


def stamp_of(index: int) -> int:
    return START_NS + index * PERIOD_NS


def box_of(index: int) -> tuple[float, float, float, float]:
    """Where the blob is in frame `index`."""
    return (60.0 + 2 * index, 80.0, 24.0, 20.0)


def picture(index: int, visible: bool = True) -> ArrayFrame:
    image = np.full((240, 320, 3), 40, np.uint8)
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
        self.failures: list[tuple[str, Exception]] = []
        self.session = TrackingSession(network, SessionSettings(**settings), self, lambda: self.now_ns)

    def on_event(self, event: TargetEvent) -> None:
        self.events.append(event)

    def on_report(self, report: FrameReport) -> None:
        self.reports.append(report)

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
    for index in range(26, 36):
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
