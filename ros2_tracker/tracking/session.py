"""All targets of one camera: who is followed, on which frame it began, and which frame comes next.

Threads: `push`, `request_init`, `cancel` and `apply_settings` may be called from any thread and return at once; one
worker thread calls `work` in a loop and runs the network. After `cancel` has returned, nothing more is reported of
the cancelled targets, even if the worker was in the middle of one.

A frame that comes while the worker is busy is answered by `push` itself, from what the last answers say of motion;
the worker may take it up later, and then reports what it measured.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from ros2_tracker.tracking.admission import (
    FUTURE_TOLERANCE_NS,
    MAX_ID_LENGTH,
    Refused,
    check_id,
    frame_of,
    is_due,
)
from ros2_tracker.tracking.ego_motion import EgoMotion
from ros2_tracker.tracking.events import (
    Counters,
    EventType,
    FramePrediction,
    FrameReport,
    InitRequest,
    Reason,
    SessionObserver,
    TargetEvent,
    TargetPrediction,
    TargetReport,
    change_of_state,
)
from ros2_tracker.tracking.frame import FrameError
from ros2_tracker.tracking.frame_buffer import NANOSECONDS, FrameBuffer, StampedFrame
from ros2_tracker.tracking.geometry import BoxError, BoxOutsideImageError
from ros2_tracker.tracking.motion import Homography
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.prediction import predicted
from ros2_tracker.tracking.result import TrackResult
from ros2_tracker.tracking.settings import SessionSettings
from ros2_tracker.tracking.target import Target

_Result = TypeVar("_Result")

# Stamps going back by more than this are a clock that jumped (a bag that starts again), not a late image.
_TIME_JUMP_NS = NANOSECONDS
# A target that started on an old frame reaches the newest within this time, leaving frames out if it must.
_CATCH_UP_S = 1.0
# Boxes that wait for their image.
_MAX_WAITING = 64


@dataclass(slots=True)
class _Followed:
    """A target with its place in the session."""

    target: Target
    session: int
    stamp_ns: int
    """Of the last frame it has seen."""
    catch_up_until: float | None
    """Deadline (monotonic s) while it works through buffered frames; None once it is up to date."""
    answer: tuple[int, TrackResult] | None = None
    """The last that was reported, with its frame's stamp in ns: what predictions start from."""


class TrackingSession:
    """Targets, frame buffer and work queue of one camera."""

    def __init__(
        self,
        network: TrackingNetwork,
        settings: SessionSettings,
        observer: SessionObserver,
        clock_ns: Callable[[], int] = time.time_ns,
        counters: Counters | None = None,
    ) -> None:
        """An empty session; `clock_ns` is the clock that image stamps are compared with, in nanoseconds."""
        self._network = network
        self._settings = settings
        self._observer = observer
        self._clock_ns = clock_ns
        self._changed = threading.Condition(threading.RLock())
        self._buffer = FrameBuffer(settings.frame_buffer_duration, settings.frame_buffer_bytes)
        self._next: StampedFrame | None = None
        self._next_is_predicted = False
        self._busy = False
        self._ego_motion = EgoMotion()
        self._waiting: list[InitRequest] = []
        self._targets: dict[str, _Followed] = {}
        self._names = 0
        self._last_answer: tuple[int, tuple[TargetReport, ...]] = (-1, ())
        self._broken_stamps: deque[int] = deque(maxlen=256)
        self._update_s = 0.02
        self.counters = counters or Counters()

    # -- any thread ---------------------------------------------------------------------------------------------

    @property
    def target_ids(self) -> list[str]:
        """Ids of the targets that are followed now."""
        with self._changed:
            return list(self._targets)

    @property
    def buffered(self) -> tuple[int, int]:
        """(frames, bytes) held in the frame buffer."""
        with self._changed:
            return len(self._buffer), self._buffer.n_bytes

    def push(self, frame: StampedFrame) -> None:
        """Offer a new frame; it replaces one that the worker has not taken yet."""
        started = time.perf_counter()
        with self._changed:
            self.counters.images_received += 1
            age_ns = self._clock_ns() - frame.stamp_ns
            if self._too_old(age_ns):
                self.counters.images_too_old += 1
                return
            if age_ns < -FUTURE_TOLERANCE_NS:
                self.counters.images_in_future += 1
            newest = self._buffer.newest
            if newest is not None and frame.stamp_ns <= newest.stamp_ns:
                # Equal stamps as well: a stamp is what tells one image from another.
                if newest.stamp_ns - frame.stamp_ns <= _TIME_JUMP_NS:
                    self.counters.images_out_of_order += 1
                    return
                self.counters.time_jumps += 1
                self._buffer.clear()
            self._buffer.push(frame)
            if self._next is not None:
                self.counters.images_superseded += 1
                if not self._next_is_predicted:  # the worker was free, but did not wake up in time
                    self._predict(self._next, started)
            self._next, self._next_is_predicted = frame, self._busy
            if self._busy:
                self._predict(frame, started)
            self._changed.notify_all()

    def count_broken(self) -> None:
        """Count an image that could not even be offered."""
        with self._changed:
            self.counters.images_received += 1
            self.counters.images_broken += 1

    def request_init(self, request: InitRequest) -> None:
        """Ask to follow a box; the answer is an INITIALIZED or REJECTED event."""
        with self._changed:
            self._waiting.append(request)
            dropped = self._waiting.pop(0) if len(self._waiting) > _MAX_WAITING else None
            self._changed.notify_all()
        if dropped is not None:
            self.refuse(dropped, Reason.TOO_MANY_TARGETS, f"more than {_MAX_WAITING} boxes wait for an image")

    def refuse(self, request: InitRequest, reason: Reason, text: str) -> None:
        """Count a box that is not accepted and say so."""
        with self._changed:
            self.counters.inits_rejected += 1
            shown_id = request.target_id[:MAX_ID_LENGTH]
            self._observer.on_event(
                TargetEvent(EventType.REJECTED, shown_id, 0, request.stamp_ns, request.tag, reason, text)
            )

    def cancel(self, target_id: str | None = None) -> list[str]:
        """Drop one target, or all with None, and boxes that still wait; returns the ids that were dropped."""
        with self._changed:
            waiting = [r for r in self._waiting if target_id is None or r.target_id == target_id]
            self._waiting = [r for r in self._waiting if r not in waiting]
            ids = list(self._targets) if target_id is None else [i for i in (target_id,) if i in self._targets]
            for name in ids:
                self._drop(name)
            for request in waiting:
                self._observer.on_event(
                    TargetEvent(EventType.CANCELLED, request.target_id, 0, request.stamp_ns, request.tag)
                )
            return ids + [r.target_id for r in waiting]

    def apply_settings(self, settings: SessionSettings) -> None:
        """Use new settings from the next frame on; targets beyond a lower `max_targets` stay."""
        with self._changed:
            self._settings = settings
            self._buffer.resize(settings.frame_buffer_duration, settings.frame_buffer_bytes)
            for followed in self._targets.values():
                followed.target.settings = settings.target

    def wake(self) -> None:
        """Make a waiting `work` return."""
        with self._changed:
            self._changed.notify_all()

    def _predict(self, source: StampedFrame, started: float) -> None:
        """Answer a frame by the motion model, for targets that the worker has answered before; under the lock.

        So it comes after all that was reported and before all that will be, and never for a cancelled target.
        """
        if not self._settings.predict_at_camera_rate:
            return
        targets = []
        for name, followed in self._targets.items():
            if followed.answer is None or followed.catch_up_until is not None:
                continue
            stamp_ns, result = followed.answer
            ahead = predicted(result, (source.stamp_ns - stamp_ns) / NANOSECONDS, self._settings.target)
            if ahead is not None:
                targets.append(TargetPrediction(name, followed.session, *ahead))
        if targets:
            self.counters.images_predicted += 1
            elapsed_s = time.perf_counter() - started
            self._observer.on_prediction(FramePrediction(source, tuple(targets), elapsed_s))

    # -- the worker thread --------------------------------------------------------------------------------------

    def work(self, timeout_s: float) -> bool:
        """Do one piece of work, waiting up to `timeout_s` for it; True if there was some.

        In this order: boxes that wait, the newest frame for all targets that are up to date, one buffered frame for
        a target that is not.
        """
        with self._changed:
            if self._next is None and not self._can_start() and not self._behind():
                self._changed.wait(timeout_s)
            taken, self._next = self._next, None
            self._busy = taken is not None or self._can_start() or bool(self._behind())
        try:
            return self._do(taken)
        finally:
            with self._changed:
                self._busy = False

    def _do(self, taken: StampedFrame | None) -> bool:
        started = time.perf_counter()
        begun = self._start_waiting()
        if taken is not None:
            self._answer(taken, started)
            return True
        behind = self._behind()
        if behind:
            self._catch_up(behind[0], started)
        return begun or bool(behind)

    def _can_start(self) -> bool:
        newest = self._buffer.newest
        return newest is not None and any(is_due(r, newest) for r in self._waiting)

    def _behind(self) -> list[str]:
        with self._changed:
            return [name for name, f in self._targets.items() if f.catch_up_until is not None]

    def _too_old(self, age_ns: int) -> bool:
        limit = self._settings.max_image_age
        return limit > 0.0 and age_ns > limit * NANOSECONDS

    def _start_waiting(self) -> bool:
        with self._changed:
            newest = self._buffer.newest
            if newest is None:
                return False
            # They stay in the list until they are decided, where a cancel finds them.
            due = [r for r in self._waiting if is_due(r, newest)]
        for request in due:
            try:
                self._start(request)
            except Refused as refusal:
                self.refuse(request, refusal.reason, str(refusal))
            except Exception as error:  # a bug must not end the worker; the requester is told
                self._observer.on_failure("starting on a box failed", error)
                self.refuse(request, Reason.INTERNAL_ERROR, repr(error))
            finally:
                with self._changed:
                    if request in self._waiting:
                        self._waiting.remove(request)
        return bool(due)

    def _start(self, request: InitRequest) -> None:
        """Begin a target on the frame its box was drawn on."""
        target_id = request.target_id
        check_id(target_id)
        with self._changed:
            source = frame_of(request, self._buffer)
            settings = self._settings
            self._check_room(target_id)
        try:
            target = Target(self._network, settings.target, source.frame, request.box, source.stamp)
        except BoxOutsideImageError as error:
            raise Refused(Reason.BOX_OUTSIDE_IMAGE, str(error)) from error
        except BoxError as error:
            raise Refused(Reason.BOX_INVALID, str(error)) from error
        except FrameError as error:
            raise Refused(Reason.IMAGE_INVALID, str(error)) from error
        with self._changed:
            if request not in self._waiting:
                return  # cancelled meanwhile
            if not target_id:
                target_id = self._new_id()
            self.counters.inits_accepted += 1
            # Counted with the caller's counters, so that numbers go on where an earlier session left off.
            session = self.counters.inits_accepted
            catch_up_until = time.monotonic() + _CATCH_UP_S if self._buffer.after(source.stamp_ns) else None
            self._targets[target_id] = _Followed(target, session, source.stamp_ns, catch_up_until)
            offset_ns = source.stamp_ns - request.stamp_ns if request.stamp_ns else 0
            text = f"box applied to an image {offset_ns / 1e6:+.1f} ms from its stamp" if offset_ns else ""
            self._observer.on_event(
                TargetEvent(
                    EventType.INITIALIZED, target_id, session, source.stamp_ns, source.tag, text=text
                )
            )

    def _check_room(self, target_id: str) -> None:
        limit = self._settings.max_targets
        if target_id not in self._targets and len(self._targets) >= limit:
            raise Refused(
                Reason.TOO_MANY_TARGETS,
                f"following {len(self._targets)} of at most {limit} targets already ({', '.join(self._targets)}): "
                "use one of their ids, or cancel one",
            )

    def _new_id(self) -> str:
        while True:
            self._names += 1
            name = f"target_{self._names}"
            if name not in self._targets:
                return name

    def _answer(self, taken: StampedFrame, started: float) -> None:
        """The newest frame for all targets that are up to date."""
        if self._too_old(self._clock_ns() - taken.stamp_ns):
            with self._changed:
                self.counters.images_too_old += 1
            return
        with self._changed:
            current = [(n, f) for n, f in self._targets.items() if f.catch_up_until is None]
            # A target that began on this very frame, or on one that came after it was taken, has nothing to look for
            # in it; stamps far ahead are from before a jump in time.
            current = [(n, f) for n, f in current if not 0 <= f.stamp_ns - taken.stamp_ns <= _TIME_JUMP_NS]
        if current and not self._is_usable(taken):
            return
        followed = [f for _, f in current]
        results = self._update(followed, taken, self._homographies(followed, taken))
        answers = [(n, f, r) for (n, f), r in zip(current, results, strict=True) if r is not None]
        self._report(taken, answers, started)
        for each in followed:
            self._tried(each.target.settle)

    def _homographies(self, targets: Sequence[_Followed], source: StampedFrame) -> list[Homography | None]:
        """For each target how the background moved since the last frame it has seen; None where that is not known."""
        unknown: list[Homography | None] = [None] * len(targets)
        if not targets or not self._settings.target.ego_motion.enabled:
            self._ego_motion.forget()
            return unknown
        since_ns = self._ego_motion.stamp_ns
        ego = self._tried(lambda: self._ego_motion.to(source.frame, source.stamp_ns, [f.target.box for f in targets]))
        if ego is None or since_ns is None:
            return unknown
        if ego.homography is None:
            with self._changed:
                self.counters.ego_motion_unknown += 1
        return [ego.homography if f.stamp_ns == since_ns else None for f in targets]

    def _catch_up(self, name: str, started: float) -> None:
        """One buffered frame for one target that began on an older one."""
        with self._changed:
            followed = self._targets.get(name)
            if followed is None or followed.catch_up_until is None:
                return
            ahead = self._buffer.after(followed.stamp_ns)
            if not ahead:
                followed.catch_up_until = None
                return
            left_s = followed.catch_up_until - time.monotonic()
        affordable = max(int(left_s / self._update_s), 1)
        source = ahead[min(math.ceil(len(ahead) / affordable), len(ahead)) - 1]
        result = self._update([followed], source, [None])[0] if self._is_usable(source) else None
        followed.stamp_ns = source.stamp_ns
        self._report_catch_up(name, followed, source, result, started)
        self._tried(followed.target.settle)

    def _report_catch_up(
        self, name: str, followed: _Followed, source: StampedFrame, result: TrackResult | None, started: float
    ) -> None:
        """Tell a change of state; of the frame with which the target has caught up, everything."""
        with self._changed:
            self.counters.catch_up_frames += 1
            if self._buffer.after(source.stamp_ns):
                if result is not None and self._targets.get(name) is followed:
                    self._tell_change(name, followed, source, result)
                return
            followed.catch_up_until = None
            if self._next is not None and self._next.stamp_ns == source.stamp_ns:
                # Answered now: the worker need not take it again for this target alone.
                if len(self._targets) == 1:
                    self._next = None
        if result is not None:
            self._report(source, [(name, followed, result)], started)

    def _is_usable(self, source: StampedFrame) -> bool:
        """Whether the frame's pixels can be had: a compressed one is only decoded, and counted as broken, here."""
        try:
            return source.frame.height > 0
        except FrameError as error:
            with self._changed:
                # A target that catches up meets it again; it is counted once.
                if source.stamp_ns not in self._broken_stamps:
                    self._broken_stamps.append(source.stamp_ns)
                    self.counters.images_broken += 1
            self._observer.on_failure("image not usable", error)
            return False

    def _update(
        self, targets: Sequence[_Followed], source: StampedFrame, egos: Sequence[Homography | None]
    ) -> list[TrackResult | None]:
        """One frame for several targets in one run of the network; None for those that it failed for.

        `egos` say for each target how the background moved since its last frame, where that is known.
        Failures are counted and reported; such a target stays as it was.
        """
        started = time.perf_counter()
        questions = [
            self._tried(lambda t=f.target, e=ego: t.ask(source.frame, source.stamp, e))
            for f, ego in zip(targets, egos, strict=True)
        ]
        asked = [(f, q) for f, q in zip(targets, questions, strict=True) if q is not None]
        if not asked:
            return [None] * len(targets)
        before = time.perf_counter()
        looks = [look for _, question in asked for look in question.looks]
        outputs = self._tried(lambda: self._network.infer(looks), len(asked))
        share_s = (time.perf_counter() - before) / len(looks)
        results: dict[int, TrackResult] = {}
        answers = iter(outputs or ())
        for followed, question in asked if outputs else ():
            mine = list(islice(answers, len(question.looks)))
            took_s = share_s * len(mine)
            result = self._tried(lambda t=followed.target, q=question, a=mine, s=took_s: t.take(q, a, s))
            if result is not None:
                results[id(followed)] = result
                followed.stamp_ns = source.stamp_ns
        per_target_s = (time.perf_counter() - started) / len(asked)
        self._update_s += 0.1 * (per_target_s - self._update_s)
        return [results.get(id(followed)) for followed in targets]

    def _tried(self, step: Callable[[], _Result], targets: int = 1) -> _Result | None:
        """The step's result, or None if it failed: one bad frame or a bug must not end the worker."""
        try:
            return step()
        except Exception as error:
            with self._changed:
                self.counters.update_failures += targets
            self._observer.on_failure("update failed", error)
            return None

    def _report(
        self, source: StampedFrame, answers: list[tuple[str, _Followed, TrackResult]], started: float
    ) -> None:
        """Tell the observer, leaving out targets that were cancelled or replaced meanwhile."""
        with self._changed:
            alive = [(n, f, r) for n, f, r in answers if self._targets.get(n) is f]
            reports = [TargetReport(n, f.session, r) for n, f, r in alive]
            last_stamp_ns, last = self._last_answer
            if last_stamp_ns == source.stamp_ns:
                # A target that has just caught up joins the others' answer to the same frame.
                reports = [r for r in last if self._is_current(r)] + reports
            report = FrameReport(source, tuple(reports), time.perf_counter() - started)
            self._last_answer = (source.stamp_ns, report.targets)
            if reports:
                self.counters.images_answered += 1
            self._observer.on_report(report)
            for name, followed, result in alive:
                followed.answer = (source.stamp_ns, result)
                self._tell_change(name, followed, source, result)

    def _tell_change(self, name: str, followed: _Followed, source: StampedFrame, result: TrackResult) -> None:
        event = change_of_state(name, followed.session, source, result)
        if event is not None:
            self._observer.on_event(event)

    def _is_current(self, report: TargetReport) -> bool:
        followed = self._targets.get(report.target_id)
        return followed is not None and followed.session == report.session

    def _drop(self, name: str) -> None:
        followed = self._targets.pop(name)
        newest = self._buffer.newest
        self._observer.on_event(
            TargetEvent(
                EventType.CANCELLED,
                name,
                followed.session,
                newest.stamp_ns if newest else followed.stamp_ns,
                newest.tag if newest else None,
            )
        )
