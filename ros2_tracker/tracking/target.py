"""Follow one target: the loop that ties a family's network to motion and reliability."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from ros2_tracker.engines.base import NamedArrays
from ros2_tracker.tracking import motion
from ros2_tracker.tracking.causes import cause_of
from ros2_tracker.tracking.discriminator import Discriminator, unmixed_score
from ros2_tracker.tracking.distractors import Second, second_answer
from ros2_tracker.tracking.events import Reason
from ros2_tracker.tracking.family import Appearance, Drawn, Look, Proposal
from ros2_tracker.tracking.first_frame import drawn_like, first_places, is_inside
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box, BoxError, checked_box
from ros2_tracker.tracking.likeness import Remembered
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.recovery import Search, Window
from ros2_tracker.tracking.reliability import Hysteresis
from ros2_tracker.tracking.result import TrackResult, TrackState
from ros2_tracker.tracking.score_map import MapShape
from ros2_tracker.tracking.settings import TargetSettings
from ros2_tracker.tracking.signals import TRUSTED, Familiar
from ros2_tracker.tracking.target_steps import Answered, Found, Memory, Question
from ros2_tracker.tracking.template_update import Templates

# For so long the size in the last frame of high reliability is the target's, s.
_SIZE_KEPT_S = 2.0


class Target:
    """One target from the frame its box was drawn on. Stamps are seconds of image time."""

    def __init__(
        self, network: TrackingNetwork, settings: TargetSettings, frame: Frame, box: tuple[float, ...], stamp: float
    ) -> None:
        """Start on `frame`; `box` is (x, y, w, h) px.

        Raises:
            BoxError: it cannot be followed.
            FloatingPointError: the network's features, or its answers to this frame, are not finite.

        """
        self._network = network
        self.settings = settings
        checked = checked_box(box, frame.width, frame.height)
        appearance, learnt = self._first_lesson(network.family.appearance(frame, checked), frame, checked)
        templates = Templates.of(appearance)
        moving = motion.initial_state(checked, settings.motion)
        familiar = Familiar.of(frame, checked, templates.first.fill)
        self._memory = Memory(stamp, checked, checked, moving, Hysteresis(), templates, familiar, learnt=learnt)

    @property
    def box(self) -> Box:
        """Where the next search is centred, px."""
        return self._memory.box

    @property
    def state(self) -> TrackState:
        """State after the last frame."""
        return self._memory.hysteresis.state

    def update(self, frame: Frame, stamp: float, ego: motion.Homography | None = None) -> TrackResult:
        """Find the target in a later frame: `ask`, one run of the network, `take`.

        A stamp before the last one, or more than a second after it, forgets the velocity but not the target.

        Raises:
            FloatingPointError: the network's answer is not finite. The state is unchanged.

        """
        question = self.ask(frame, stamp, ego)
        started = time.perf_counter()
        outputs = self._network.infer(question.looks)
        return self.take(question, outputs, time.perf_counter() - started)

    def ask(self, frame: Frame, stamp: float, ego: motion.Homography | None = None) -> Question:
        """What the network is to be asked about a later frame; nothing changes, but see `settle`.

        `ego` maps px of the target's last frame to px of this one, where the background's motion is known.
        """
        # That the answer before taught nothing is no fault of this frame; who wants to know calls `settle`.
        with suppress(FloatingPointError):
            self.settle()
        memory, family, settings = self._memory.carried(ego), self._network.family, self.settings
        windows: tuple[Window, ...] = (Window(memory.box, 1.0),)
        if memory.search is not None:
            windows, search = memory.search.looked(frame, stamp, settings.recovery)
            memory = memory._replace(search=search)
        appearance = memory.templates.current
        if memory.learnt is not None and settings.learning.enabled:
            appearance = appearance.told(memory.learnt.told(settings.learning.weight))
        looks = [family.look(appearance, frame, window.around, window.zoom) for window in windows]
        backward = False
        past = memory.remembered.best
        if memory.search is not None and memory.search.view is not None and past is not None:
            looks.append(past.asked_with(memory.search.view))
            backward = True
        moving, dt = memory.motion, stamp - memory.stamp
        if not 0.0 <= dt <= motion.MAX_STEP_S:
            moving = motion.without_velocity(moving, settings.motion)
            dt = motion.MAX_STEP_S if dt > 0.0 else 0.0
        predicted = motion.predict_seen(moving, dt, settings.motion, ego)
        strips = memory.familiar.strips_of(frame)
        return Question(frame, stamp, tuple(looks), memory, dt, predicted, strips, backward)

    def settle(self) -> None:
        """Do now what may wait until the last answer is out: remember it and learn from it. Else the next `ask` does.

        Raises:
            FloatingPointError: the network's features are not finite. Nothing is learnt from them.

        """
        memory, settings = self._memory, self.settings
        if memory.answered is None:
            return
        found, lasting, seen, outputs, region, reliability, gone, dt = memory.answered
        # Should it fail, it is not tried again.
        self._memory = memory = memory._replace(answered=None)
        remembered, learnt = memory.remembered, memory.learnt
        if lasting is not None:
            remembered = remembered.with_view(_remembered(memory.stamp, lasting, found.proposal, outputs))
        elif not gone and reliability < TRUSTED:
            remembered = remembered.doubted()
        self._memory = memory._replace(
            # What is not yet believed to be the target is not what the next view is compared with.
            familiar=memory.familiar.after(seen, 0.0 if gone else reliability),
            look_alikes=memory.look_alikes.after(found.second, seen.box.size, memory.stamp, settings.distractors),
            remembered=remembered,
        )
        if learnt is not None and not gone:
            learnt = learnt.after(outputs["features"], region, seen.box, reliability, dt, settings.learning)
            self._memory = self._memory._replace(learnt=learnt)

    def take(self, question: Question, outputs: Sequence[NamedArrays], network_s: float) -> TrackResult:
        """Go on with the network's answers, one a look, which took `network_s` seconds; errors as those of `update`."""
        memory, settings = question.memory, self.settings
        dt, predicted = question.dt, question.predicted
        found = self._found(question, outputs)
        proposal = found.proposal
        box = proposal.box
        certain = motion.measurement_noise(box, 1.0, settings.motion)
        surprise = motion.center_distance(predicted, box, certain)
        size_update = self._network.variant.size_update
        seen = memory.familiar.seen(
            question.frame, found.look, proposal, found.maps, question.strips, dt, surprise, size_update
        )
        reliability = self._network.reliability.reliability(seen.signals, settings.reliability)
        way_back = memory.search.way_back(settings.recovery) if memory.search is not None else None
        hysteresis = memory.hysteresis.step(reliability, dt, settings.reliability, way_back)

        cause = Reason.NONE
        if memory.search is not None or hysteresis.state is memory.hysteresis.state:
            cause = memory.cause
        elif hysteresis.state is not TrackState.TRACKING:
            size = question.frame.width, question.frame.height
            cause = cause_of(seen.signals, memory.familiar.trusted, predicted.box, *size)
        if hysteresis.state is TrackState.TRACKING:
            cause = Reason.NONE

        noise = motion.measurement_noise(box, reliability, settings.motion)
        doubtful = reliability < settings.reliability.lost_below
        next_motion = predicted if doubtful else motion.correct(predicted, box, noise)
        # A doubtful box would drag the search away from where the target was last seen.
        next_box = memory.box if doubtful and self._network.variant.hold_in_doubt else box
        trusted = box if reliability >= settings.reliability.uncertain_below else memory.trusted
        # A find on probation is UNCERTAIN.
        gone = hysteresis.state is TrackState.LOST or (
            memory.search is not None and hysteresis.state is not TrackState.TRACKING
        )
        search = None
        if gone:
            if settings.recovery.enabled:
                trusted = memory.trusted
                stuck = settings.reliability.is_stuck(seen.signals.frozen_for)
                # A camera that repeats its image shows nothing new: what it showed stays what it was.
                kept = memory.search if stuck else None
                search = kept or self._searched(question, found, doubtful, stuck)
                next_box = search.candidate or search.place
            if doubtful or (search is not None and memory.search is not None and not memory.search.candidate):
                # Nothing is known of its motion any more; where it reappears starts afresh.
                next_motion = motion.initial_state(next_box, settings.motion)
        lasting = None
        believed = not gone and reliability >= TRUSTED and hysteresis.state is TrackState.TRACKING
        if believed and memory.remembered.wants(question.stamp):
            # Now, as long as the camera's pixels are those.
            lasting = found.look.cut()
        self._memory = Memory(
            question.stamp,
            next_box,
            trusted,
            next_motion,
            hysteresis,
            self._templates(question, proposal, reliability, gone),
            memory.familiar,
            memory.look_alikes,
            memory.learnt if settings.learning.enabled else None,
            memory.remembered,
            search,
            cause,
            memory.frames + 1,
            Answered(found, lasting, seen, outputs[0], question.looks[0].region, reliability, gone, dt),
        )
        return TrackResult(
            box=None if hysteresis.state is TrackState.LOST else box.as_tuple(),
            candidate=box.as_tuple(),
            reliability=reliability,
            state=hysteresis.state,
            score=proposal.score,
            signals=seen.signals,
            noise=noise,
            estimate=next_motion,
            previous_state=memory.hysteresis.state,
            cause=cause,
            network_s=network_s,
            not_tracking_for=hysteresis.not_tracking,
        )

    def _found(self, question: Question, outputs: Sequence[NamedArrays]) -> Found:
        """The network's answers, with the second one in place of a look-alike that answers first."""
        memory, settings, family = question.memory, self.settings.distractors, self._network.family
        first, *others = [family.proposal(look, out) for look, out in zip(question.looks, outputs, strict=True)]
        likeness = None
        past = memory.remembered.best
        if question.backward and past is not None and memory.search is not None:
            likeness = past.likeness(question.looks[0], first, others.pop(), memory.search.middle)
        answers, look = (first, *others), question.looks[0]
        if memory.search is not None and memory.search.candidate is None:
            # Nothing is known yet: the best guess is the best answer.
            best = max(range(len(answers)), key=lambda i: answers[i].score)
            look, first = question.looks[best], answers[best]
        maps, second = _shapes(first), None
        # Corner maps have no second answer.
        if settings.enabled and memory.search is None and len(maps) == 1:
            predicted = question.predicted
            second = second_answer(first, maps[0], look, settings)
            size, expected = memory.box.size, (predicted.x.position, predicted.y.position)
            if second is not None and memory.look_alikes.usurped(first, second, expected, size, question.stamp):
                usurper = first
                first = family.proposal(look, outputs[0], second.cell)
                maps = _shapes(first)
                second = Second(usurper.cells[0], usurper.box.cx, usurper.box.cy, usurper.score)
        return Found(look, first, maps, second, answers, likeness)

    def _searched(self, question: Question, found: Found, doubtful: bool, stuck: bool) -> Search:
        """The search for a target that is gone, after a frame."""
        memory, settings, frame = question.memory, self.settings.recovery, question.frame
        past = memory.remembered.best
        if memory.search is None:
            place = memory.trusted
            if past is not None and question.stamp - past.stamp < _SIZE_KEPT_S:
                # What hides a target often stretches its box first.
                place = Box.from_center(place.cx, place.cy, past.box.w, past.box.h)
            colours, middle = (None, None) if past is None else (past.colours(), past.middle())
            usual = math.inf if past is None else past.score
            return Search.begin(
                place,
                question.stamp,
                frame.width,
                frame.height,
                settings,
                colours,
                middle,
                # What a repeated image shows is no more than where it was.
                followed=None if stuck else found.proposal,
                usual=usual,
            )
        search = memory.search.after(found.answers, doubtful, found.likeness, settings)
        if search.candidate is None or memory.search.candidate is None or doubtful:
            return search
        # Fitting an online branch to each find takes a second. Nothing is known then: half-way to full likeness.
        if past is None or self._network.variant.online:
            return replace(search, likeness=(1.0 + settings.accept_likeness) / 2.0)
        try:
            fill = memory.templates.first.fill
            return replace(search, view=self._network.family.appearance(frame, search.candidate, fill))
        except BoxError:
            return search

    def _first_lesson(
        self, appearance: Appearance, frame: Frame, box: Box
    ) -> tuple[Appearance, Discriminator | None]:
        """What the frame says in which the box was drawn, to networks that can be told.

        How the user draws, in the appearance, and what tells the target from its surroundings.
        """
        settings, family = self.settings.learning, self._network.family
        if not (settings.enabled and appearance.can_learn):
            return appearance, None
        looks = [family.look(appearance, frame, place) for place in first_places(box)]
        # One after another: for several at once, many an engine would open a second session, of which most trackers
        # have no need.
        outputs = [self._network.infer([look])[0] for look in looks]
        found = [family.proposal(look, out).box for look, out in zip(looks, outputs, strict=True)]
        views = [(out["features"], look.region) for look, out in zip(looks, outputs, strict=True)]
        drawn = Drawn()
        if is_inside(box, frame.width, frame.height):
            drawn = drawn_like(box, found, self._network.variant.size_update, settings.drawn)
        return replace(appearance, drawn=drawn), Discriminator.of(views, box, settings)

    def _templates(self, question: Question, proposal: Proposal, reliability: float, gone: bool) -> Templates:
        """What the network will compare with in the next frame; `gone`: nothing is learnt but by the authors' loop."""
        memory, settings, family = question.memory, self.settings, self._network.family
        templates, frame = memory.templates, question.frame
        if not settings.template_update.enabled:
            renewed = family.renewed(templates.current, frame, proposal, memory.frames + 1)
            return templates if renewed is templates.current else replace(templates, current=renewed)
        if gone:
            return templates
        below = settings.reliability.uncertain_below
        return templates.after(family, frame, proposal.box, reliability, question.dt, below, settings.template_update)


def _remembered(stamp: float, look: Look, proposal: Proposal, outputs: NamedArrays) -> Remembered:
    own, learnt = proposal.score, look.inputs.get("learnt")
    if learnt is not None:
        row, column = proposal.cells[0]
        cell = row * proposal.score_maps.shape[-1] + column
        own = unmixed_score(own, outputs["features"][cell], learnt)
    return Remembered(stamp, look, proposal.box, proposal.score, own)


def _shapes(found: Proposal) -> tuple[MapShape, ...]:
    return tuple([MapShape(*each) for each in zip(found.score_maps, found.cells, strict=True)])
