"""ONNX Runtime sessions: their settings, and one run for several targets."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ros2_tracker.engines import onnxruntime as engine_module
from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.batches import count_runs, run_all
from ros2_tracker.engines.onnxruntime import OnnxRuntimeEngine, load_onnx_engines, session_options
from ros2_tracker.engines.origin import batch_of, read_metadata
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant

SCRIPTS = Path(__file__).parents[2] / "scripts"
FP32 = WEIGHTS_DIR / "onestream-192.onnx"
INT8 = WEIGHTS_DIR / "onestream-192.int8.onnx"


def script(name: str):
    """A file of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets(count: int) -> list[dict[str, np.ndarray]]:
    """Smooth random crops, another for each target."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    noise = [{n: rng.integers(0, 256, (s, s, 3), np.uint8) for n, s in (("template", 128), ("search", 256))}]
    noise += [{n: np.roll(v, 40 * i, 0) for n, v in noise[0].items()} for i in range(1, count)]
    return [{name: cv2.GaussianBlur(value, (0, 0), 4.0) for name, value in each.items()} for each in noise]


def entry(options: onnxruntime.SessionOptions, key: str) -> str:
    try:
        return options.get_session_config_entry(key)
    except RuntimeError:
        return ""


@pytest.mark.parametrize(
    ("version", "spins", "stops", "micros"),
    [("1.16.3", "0", "", ""), ("1.25.1", "0", "", ""), ("1.26.0", "", "1", "100"), ("2.0.0.dev1", "", "1", "100")],
)
def test_threads_never_spin_between_frames(
    monkeypatch: pytest.MonkeyPatch, version: str, spins: str, stops: str, micros: str
):
    """A release that does not know how long to spin would ignore that setting and spin for up to 50 ms."""
    monkeypatch.setattr(onnxruntime, "__version__", version)
    options = session_options()
    assert entry(options, "session.intra_op.allow_spinning") == spins
    assert entry(options, "session.force_spinning_stop") == stops
    assert entry(options, "session.intra_op.spin_duration_us") == micros


def test_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module.os, "sched_getaffinity", lambda pid: set(range(32)))
    assert session_options().intra_op_num_threads == 4
    assert session_options(7).intra_op_num_threads == 7
    monkeypatch.setattr(engine_module.os, "sched_getaffinity", lambda pid: {3})
    assert session_options().intra_op_num_threads == 1


def test_same_answer_as_a_default_session():
    (target,) = targets(1)
    plain = onnxruntime.InferenceSession(str(FP32))
    expected = plain.run(None, {name: value[None] for name, value in target.items()})
    (answer,) = OnnxRuntimeEngine(FP32, threads=1).run([target])
    for name, value in zip(("score_map", "ltrb"), expected, strict=True):
        np.testing.assert_allclose(answer[name], value[0], atol=1e-6)


@pytest.fixture(scope="module")
def wrapping():
    pytest.importorskip("onnx", reason="the script needs onnx")
    return script("wrap_network")


def assert_same(answers: list[dict[str, np.ndarray]], expected: list[dict[str, np.ndarray]], error: float) -> None:
    assert len(answers) == len(expected)
    for answer, wanted in zip(answers, expected, strict=True):
        for name, value in wanted.items():
            np.testing.assert_allclose(answer[name], value, rtol=0.0, atol=error, err_msg=name)


@pytest.fixture(scope="module")
def four(wrapping, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped graph with a fixed batch of four, as `--batch 4` makes it."""
    import onnx

    file = tmp_path_factory.mktemp("batch") / "four.onnx"
    onnx.save(wrapping.set_batch(onnx.load(FP32), 4), file)
    return file


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shipped_graph_answers_several_targets_in_one_run(count: int):
    engine = load_onnx_engines(load_variant("onestream-192"), FP32, threads=2).per_frame
    alone = OnnxRuntimeEngine(FP32, threads=2)
    asked = targets(count)
    expected = [alone.run([target])[0] for target in asked]
    assert_same(engine.run(asked), expected, 0.0 if count == 1 else 1e-5)
    assert count_runs(engine, count) == 1
    if count > 1:
        different = np.abs(expected[0]["score_map"] - expected[1]["score_map"]).max()
        assert different > 1e-3, "the targets look the same"


def test_fixing_a_free_batch_changes_no_bit(wrapping, tmp_path: Path):
    """The session for one target is that of a graph with a batch of one."""
    import onnx

    onnx.save(wrapping.set_batch(onnx.load(FP32), 1), tmp_path / "one.onnx")
    asked = targets(2)
    fixed, free = OnnxRuntimeEngine(tmp_path / "one.onnx", threads=1), OnnxRuntimeEngine(FP32, threads=1)
    assert fixed.inputs == free.inputs
    for target in asked:
        assert_same(free.run([target]), fixed.run([target]), 0.0)


@pytest.mark.parametrize(("threads", "count"), [(1, 3), (2, 1), (2, 2), (2, 5), (4, 3)])
def test_quantised_targets_are_answered_as_if_alone(threads: int, count: int):
    """Side by side: in one run they would share the scale of their activations."""
    engine = load_onnx_engines(load_variant("onestream-192"), INT8, threads).per_frame
    alone = OnnxRuntimeEngine(INT8, threads=1)
    asked = targets(count)
    assert_same(run_all(engine, asked), [alone.run([target])[0] for target in asked], 0.0)
    assert count_runs(engine, count) == count


def test_file_that_was_replaced_is_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    graph = tmp_path / "graph.onnx"
    shutil.copy(INT8, graph)
    engine = load_onnx_engines(load_variant("onestream-192"), graph, threads=2).per_frame
    graph.write_bytes(b"of another network")
    asked, alone = targets(2), OnnxRuntimeEngine(INT8, threads=2)
    for _ in range(2):
        assert_same(engine.run(asked), [alone.run([target])[0] for target in asked], 0.0)
    (said,) = caplog.messages
    assert "was changed since it was loaded: several targets run one after another" in said


def test_fixed_batch(four: Path):
    asked = targets(4)
    single, batched = OnnxRuntimeEngine(FP32, threads=1), OnnxRuntimeEngine(four, threads=1)
    assert batched.batch == 4
    assert_same(batched.run(asked), [single.run([target])[0] for target in asked], 1e-5)


@pytest.mark.parametrize(("file", "batch"), [("four", 4), ("shipped", None)])
def test_graph_says_its_batch(four: Path, file: str, batch: int | None):
    assert batch_of(read_metadata(four if file == "four" else FP32)) == batch


def test_fewer_targets_than_the_batch_are_filled_up(four: Path):
    from ros2_tracker.engines.load import EngineSettings
    from ros2_tracker.tracking.frame import ArrayFrame
    from ros2_tracker.tracking.geometry import Box
    from ros2_tracker.tracking.network import TrackingNetwork

    batched = TrackingNetwork.load("onestream-192", EngineSettings("onnxruntime", weights=four, threads=1))
    single = TrackingNetwork.load("onestream-192", EngineSettings("onnxruntime", "fp32", threads=1))
    assert [batched.count_runs(count) for count in (0, 1, 4, 5)] == [0, 1, 1, 2]
    frame = ArrayFrame(targets(1)[0]["search"])
    boxes = [Box(40.0 * i, 30.0, 50.0, 60.0) for i in range(5)]
    looks = [single.family.look(single.family.appearance(frame, box), frame, box) for box in boxes]
    for answer, expected in zip(batched.infer(looks), single.infer(looks), strict=True):
        np.testing.assert_allclose(answer["score_map"], expected["score_map"], atol=1e-5)


def test_tensorrt_builds_it(four: Path, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx", reason="needs `pip install tensorrt-rtx`")
    from ros2_tracker.engines.build import build_ahead
    from ros2_tracker.engines.load import EngineSettings

    tmp_path.chmod(0o700)
    settings = EngineSettings("tensorrt", "fp32", four, cache_dir=tmp_path)
    (built,) = build_ahead(load_variant("onestream-192"), settings, without_gpu=True)
    assert "-b4-" in built.file.name


def test_scales_are_not_shared_among_targets(wrapping):
    import onnx

    with pytest.raises(ValueError, match="quantised at run time"):
        wrapping.set_batch(onnx.load(INT8), 2)


def test_session_bench_compares_both(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bench = script("session_bench")
    report = bench.bench(INT8, 0.0)
    assert set(report["load_ms"]) == {"graph", "optimised_graph"}
    for situation in ("alone", "paced"):
        (compared,) = (each for each in report[situation].values() if each)
        assert compared["rounds"] == 1
        both = compared["ours"]["ms"], compared["default"]["ms"]
        assert min(both) > 0.1
        assert compared["ratio"]["p50"] == pytest.approx(both[0] / both[1], rel=0.05)


def test_missing_graph_is_named(tmp_path: Path):
    with pytest.raises(EngineError, match=r"nothing\.onnx does not exist"):
        OnnxRuntimeEngine(tmp_path / "nothing.onnx")
