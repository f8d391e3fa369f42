"""Whether an engine computes what its reference computes: asked of every engine that was built for a machine.

The inputs are drawn here, always the same: a template, and search regions that show the target somewhere, some with a
border outside the image. An engine that takes several targets is asked about each alone and about all in one run. One
that cuts crops itself gets their source pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engine, EngineError, Engines, NamedArrays
from ros2_tracker.engines.batches import run_all
from ros2_tracker.engines.patch import Axis, Patch
from ros2_tracker.models.window import hann_window

TOLERANCES: Mapping[str, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 1e-1}
"""Largest error by precision: of boxes and distances in search sides, of scores, of features against the largest."""
MAP_TOLERANCES: Mapping[str, float] = {**TOLERANCES, "int8": 3e-1}
"""The same of a score map, relative to its peak: two CPU kernels for one int8 graph were found to differ by 0.17."""
_CASES = 3
_SEED = 20260
# Of the target in the search region, in its sides.
_PLACES = ((0.5, 0.5), (0.4, 0.58), (0.56, 0.42))


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What a comparison came to."""

    error: float
    """The largest one; NaN when the engine returned something that is not finite."""
    where: str
    """Which output, in which case."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the engine may track."""
        return self.error <= self.tolerance

    @property
    def text(self) -> str:
        """For people."""
        verdict = "passed" if self.passed else "FAILED"
        return f"self-test {verdict}: largest error {self.error:.1e} ({self.where}), limit {self.tolerance:.0e}"


def self_test(tested: Engines, reference: Engines, precision: str) -> SelfTest:
    """Compare on all cases.

    Args:
        tested: the engine in question.
        reference: one that is believed.
        precision: of the tested engine, a key of TOLERANCES.

    Raises:
        EngineError: the two have different inputs or outputs.

    """
    _require_same_names(tested.per_frame, reference.per_frame)
    worst = SelfTest(0.0, "no difference", TOLERANCES[precision])
    asked, believed = ([_question(engines, case) for case in range(_CASES)] for engines in (tested, reference))
    expected = [_filled(reference.per_frame, question) for question in believed]
    answers = {"": [_filled(tested.per_frame, question) for question in asked]}
    if tested.per_frame.batch != 1:
        answers[" beside others"] = run_all(tested.per_frame, asked)
    for how, given in answers.items():
        for case, answer in enumerate(given):
            worst = _worse(worst, _errors(answer, expected[case]), f"case {case + 1}{how}", precision)
    return worst


def features_test(tested: Engine, reference: Engine, precision: str) -> SelfTest:
    """Compare two engines of template features; arguments and errors as those of `self_test`."""
    _require_same_names(tested, reference)
    worst = SelfTest(0.0, "no difference", TOLERANCES[precision])
    for case in range(_CASES):
        shown = _shown_template(tested, case)
        actual, expected = _filled(tested, shown), _filled(reference, shown)
        errors = {}
        for name, value in expected.items():
            scale = max(float(np.abs(np.asarray(value, np.float64)).max()), 1e-3)
            errors[name] = _largest(actual[name], value) / scale
        worst = _worse(worst, errors, f"case {case + 1}", precision)
    return worst


def require_passed(result: SelfTest) -> str:
    """What the test says; EngineError where it failed."""
    if not result.passed:
        raise EngineError(f"its answers are not those of the reference: {result.text}")
    return result.text


def _require_same_names(tested: Engine, reference: Engine) -> None:
    for kind in ("inputs", "outputs"):
        theirs, ours = (set(getattr(engine, kind)) for engine in (reference, tested))
        if theirs != ours:
            raise EngineError(f"self-test: the {kind} are {sorted(ours)}, those of the reference {sorted(theirs)}")


def _worse(worst: SelfTest, errors: Mapping[str, float], where: str, precision: str) -> SelfTest:
    for name, error in errors.items():
        tolerance = (MAP_TOLERANCES if name == "score_map" else TOLERANCES)[precision]
        # NaN is the worst.
        if not math.isnan(worst.error) and not error / tolerance <= worst.error / worst.tolerance:
            worst = SelfTest(error, f"{name} of {where}", tolerance)
    return worst


def _question(engines: Engines, case: int) -> NamedArrays:
    """What an engine is asked in one case: the same crops for every engine, features of its own."""
    shapes = engines.per_frame.inputs
    side = _side(shapes, "search")
    search = _background(np.random.default_rng([_SEED, case, 1]), side)
    _paint(search, (side * _PLACES[case][0], side * _PLACES[case][1]), side / 4)
    inputs = {"search": search}
    if "search_padded" in shapes:
        inputs["search_padded"] = _border(search, case)
    shown = _shown_template(engines.per_template or engines.per_frame, case)
    if engines.per_template is None:
        inputs["template"] = shown["template"]
    else:
        for name, value in _filled(engines.per_template, shown).items():
            count = shapes[f"template_{name}"][1] or len(value)
            inputs[f"template_{name}"] = np.concatenate([value] * (count // len(value)))
    if "learnt" in shapes:
        length = shapes["learnt"][1]
        assert length is not None  # only the batch may be free
        inputs["learnt"] = _learnt(length, case)
    if engines.takes_patches:
        inputs["search"] = _still_to_cut(search)
    return inputs


def _learnt(length: int, case: int) -> NDArray[np.float32]:
    """A classifier whose responses are spread around a half; none in the first case."""
    learnt = np.zeros(length, np.float32)
    if case:
        learnt[:-2] = np.random.default_rng([_SEED, case, 2]).normal(0.0, 0.3, length - 2)
        learnt[-2:] = 0.5
    return learnt


def _still_to_cut(search: NDArray[np.uint8]) -> Patch:
    """A patch that is exactly this crop when it is cut: of BGR pixels, twice as many each way."""
    source = np.repeat(np.repeat(search[..., ::-1], 2, axis=0), 2, axis=1)
    axis = Axis(0.5, 2.0)
    return Patch(source, (2, 1, 0), axis, axis, len(search), (0.0, 0.0, 0.0), lambda: search)


def _shown_template(engine: Engine, case: int) -> NamedArrays:
    size = _side(engine.inputs, "template")
    template = _background(np.random.default_rng([_SEED, case, 0]), size)
    _paint(template, (size / 2, size / 2), size / 2)
    shown = {
        "template": template,
        "template_padded": np.zeros((size, size), bool),
        # Not square, so that width and height cannot change places unseen.
        "template_target": np.array([size // 2, size // 3], np.int32),
    }
    return {name: value for name, value in shown.items() if name in engine.inputs}


def _filled(engine: Engine, inputs: NamedArrays) -> NamedArrays:
    """One run with the same target in every place of the batch; the answer for the first."""
    return engine.run([inputs] * (engine.batch or 1))[0]


def _errors(actual: NamedArrays, expected: NamedArrays) -> dict[str, float]:
    """Largest error per output."""
    score_map = expected["score_map"]
    off = _largest(actual["score_map"], score_map)
    errors = {"score_map": off / max(float(score_map.max()), 1e-3)}
    if "score" in expected:
        errors["score"] = _largest(actual["score"], expected["score"])
    if score_map.ndim == 2:
        windowed = score_map * hann_window(score_map.shape[0])
        best = np.unravel_index(int(windowed.argmax()), windowed.shape)
        first, second = np.sort(windowed, axis=None)[::-1][:2]
        clear = first - second > 2.0 * off
        if "ltrb" in expected:
            errors["ltrb"] = _largest(actual["ltrb"][:, best[0], best[1]], expected["ltrb"][:, best[0], best[1]])
    else:
        clear = True
    if "features" in expected and "cell" in expected:
        errors["features"] = _largest(actual["features"], expected["features"])
        if clear:
            errors["cell"] = _largest(actual["cell"], expected["cell"])
    # Two cells that are as good as each other may change places, and the box with them.
    if "box" in expected and clear:
        errors["box"] = _largest(actual["box"], expected["box"])
    return errors


def _largest(actual: NDArray, expected: NDArray) -> float:
    return float(np.abs(np.asarray(actual, np.float64) - expected).max())


def _side(shapes: Mapping[str, tuple[int | None, ...]], name: str) -> int:
    side = shapes[name][1]
    assert side is not None  # crops have a fixed size
    return side


def _background(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Soft dark clouds, (size, size, 3)."""
    clouds = rng.integers(30, 130, (6, 6, 3), np.uint8)
    return cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)


def _paint(canvas: NDArray[np.uint8], center: tuple[float, float], side: float) -> None:
    """The target: a striped bright ellipse, `side` px wide, at `center` (x, y) px."""
    (x, y), axes = (round(v) for v in center), (round(side / 2), round(side / 3))
    cv2.ellipse(canvas, (x, y), axes, 0, 0, 360, (235, 90, 40), -1, cv2.LINE_AA)
    cv2.ellipse(canvas, (x, y), (axes[0] // 2, axes[1]), 0, 0, 360, (250, 240, 120), -1, cv2.LINE_AA)
    cv2.circle(canvas, (x - axes[0] // 2, y), max(axes[1] // 3, 1), (20, 30, 160), -1, cv2.LINE_AA)


def _border(search: NDArray[np.uint8], case: int) -> NDArray[np.bool_]:
    """The mask of what is outside the image: nothing in the first case, then `case` sixteenths at the left."""
    padded = np.zeros(search.shape[:2], bool)
    width = case * search.shape[1] // 16
    padded[:, :width] = True
    search[:, :width] = 0
    return padded
