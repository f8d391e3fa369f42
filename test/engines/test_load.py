"""Which file and engine a model, a precision and a weights file come to, and what is said where there is none."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest

from ros2_tracker.engines import load
from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.batches import count_runs
from ros2_tracker.engines.load import EngineSettings, list_options, load_engines, usable_options
from ros2_tracker.engines.onnxruntime import OnnxRuntimeEngine, load_onnx_engines
from ros2_tracker.engines.origin import read_metadata
from ros2_tracker.models.variant import WEIGHTS_DIR, WeightsMissingError, load_variant

DEFAULT = load_variant("onestream-192")
OSTRACK = load_variant("ostrack-b256")


EMPTY_MODEL = bytes([8, 10])
"""The shortest ONNX file: its IR version."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's weights folder, empty."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "ros2_tracker" / "weights"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_GPU_FILES", ())


@pytest.fixture
def gpu_file(no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that looks as if it had a GPU."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(load, "_GPU_FILES", (str(tmp_path / "nvidia0"),))


@pytest.fixture
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: name)


def chosen(variant, engine="auto", precision="auto", weights=None, device="auto"):
    """(engine, file) of the best option."""
    options = usable_options(variant, EngineSettings(engine, precision, weights, device=device))
    best = next(option for option in options if not option.missing)
    return best.label, best.file


pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.mark.parametrize(
    ("precision", "name"),
    [("auto", "onestream-192.int8.onnx"), ("int8", "onestream-192.int8.onnx"), ("fp32", "onestream-192.onnx")],
)
def test_shipped_graph_of_a_precision(folder: Path, precision: str, name: str):
    assert chosen(DEFAULT, precision=precision) == ("onnxruntime on CPU", WEIGHTS_DIR / name)


def test_own_folder_comes_before_the_shipped_one(folder: Path):
    (folder / "onestream-192.int8.onnx").touch()
    assert chosen(DEFAULT)[1] == folder / "onestream-192.int8.onnx"


@pytest.mark.usefixtures("with_torch")
def test_graph_is_preferred_to_weights_on_a_cpu(folder: Path):
    tensors, graph, half = (folder / f"ostrack-b256{end}" for end in (".safetensors", ".onnx", ".fp16.onnx"))
    tensors.touch()
    assert chosen(OSTRACK) == ("torch on CPU", tensors)
    half.touch()
    assert chosen(OSTRACK) == ("onnxruntime on CPU", half)
    graph.touch()
    assert chosen(OSTRACK) == ("onnxruntime on CPU", graph)
    assert chosen(OSTRACK, precision="fp16") == ("onnxruntime on CPU", half)
    assert chosen(OSTRACK, "torch") == ("torch on CPU", tensors)


@pytest.mark.usefixtures("with_torch", "gpu_file")
def test_order_on_a_gpu(folder: Path):
    tensors, graph, half = (folder / f"ostrack-b256{end}" for end in (".safetensors", ".onnx", ".fp16.onnx"))
    tensors.touch()
    assert chosen(OSTRACK) == ("torch on CUDA", tensors)
    graph.touch()
    assert chosen(OSTRACK) == ("tensorrt", graph)
    half.touch()
    assert chosen(OSTRACK) == ("tensorrt", half)
    assert chosen(OSTRACK, precision="fp32") == ("tensorrt", graph)
    assert chosen(OSTRACK, device="cpu") == ("onnxruntime on CPU", graph)
    assert chosen(OSTRACK, "torch", device="cuda:1") == ("torch on CUDA", tensors)


def tensorrt_int8(variant, weights=None, precision="int8"):
    """(file, precision, what is missing) of TensorRT."""
    (option,) = list_options(variant, EngineSettings("tensorrt", precision, weights))
    return option.file, option.precision, option.missing


@pytest.mark.usefixtures("with_torch", "gpu_file")
def test_tensorrt_takes_an_explicitly_quantised_graph(folder: Path):
    explicit = folder / "onestream-192.int8-qdq.onnx"
    exported(folder, explicit.name, precision="int8")
    assert chosen(DEFAULT, precision="int8") == ("tensorrt", explicit)
    assert tensorrt_int8(DEFAULT) == (explicit, "int8", "")
    assert tensorrt_int8(DEFAULT, explicit, "auto") == (explicit, "int8", "")
    assert tensorrt_int8(DEFAULT, precision="auto")[0] == WEIGHTS_DIR / "onestream-192.onnx"  # not unless asked for
    # A CPU goes on with the one that is quicker there.
    dynamic = WEIGHTS_DIR / "onestream-192.int8.onnx"
    assert chosen(DEFAULT, precision="int8", device="cpu") == ("onnxruntime on CPU", dynamic)
    assert chosen(DEFAULT, device="cpu") == ("onnxruntime on CPU", dynamic)


@pytest.mark.usefixtures("with_torch", "gpu_file")
def test_graph_quantised_at_run_time_is_not_for_tensorrt(folder: Path):
    said = "onestream-192.int8.onnx is quantised at run time, not for TensorRT: `ros2-tracker quantize` makes one"
    assert tensorrt_int8(DEFAULT) == (None, "", said)
    with pytest.raises(EngineError, match=r"quantised at run time, not for TensorRT: `ros2-tracker quantize`"):
        chosen(DEFAULT, "tensorrt", "int8")
    file = WEIGHTS_DIR / "onestream-192.int8.onnx"
    assert tensorrt_int8(DEFAULT, file)[2] == said
    engines = load_engines(DEFAULT, EngineSettings(precision="int8"))  # the chain goes on
    assert engines.per_frame.description.startswith("onnxruntime")
    assert said in engines.reason


def test_explicitly_quantised_graph_on_a_cpu_only_when_asked_for(folder: Path):
    explicit = exported(folder, "ostrack-b256.int8-qdq.onnx", variant="ostrack-b256", precision="int8")
    assert chosen(OSTRACK, precision="int8") == ("onnxruntime on CPU", explicit)
    with pytest.raises(EngineError, match="there is no graph"):
        chosen(OSTRACK, "onnxruntime")
    graph = exported(folder, "ostrack-b256.onnx", variant="ostrack-b256")
    assert chosen(OSTRACK, "onnxruntime") == ("onnxruntime on CPU", graph)
    with pytest.raises(EngineError, match="there is no NVIDIA GPU"):
        chosen(OSTRACK, "tensorrt", "int8")


@pytest.mark.parametrize("engine", ["auto", "torch", "onnxruntime", "tensorrt"])
def test_missing_weights_are_named_with_the_way_to_get_them(folder: Path, engine: str):
    with pytest.raises(WeightsMissingError) as error:
        chosen(OSTRACK, engine)
    text = str(error.value)
    assert str(folder / "ostrack-b256.safetensors") in text
    assert "import-checkpoint FILE --model ostrack-b256 -o" in text


def test_weights_without_a_graph(folder: Path):
    (folder / "ostrack-b256.safetensors").touch()
    with pytest.raises(WeightsMissingError, match=r"ros2-tracker export --model ostrack-b256 --precision fp32 -o"):
        chosen(OSTRACK, "onnxruntime")
    for arguments in (("auto", "fp16"), ("tensorrt",)):
        with pytest.raises(WeightsMissingError, match=r"--precision fp16 -o .*ostrack-b256\.fp16\.onnx"):
            chosen(OSTRACK, *arguments)


def test_weights_without_torch(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "ostrack-b256.safetensors").touch()
    monkeypatch.setattr(load, "find_spec", lambda name: name if name == "onnxruntime" else None)
    with pytest.raises(WeightsMissingError, match=r"pip install torch safetensors.*ros2-tracker export"):
        chosen(OSTRACK)


@pytest.mark.usefixtures("with_torch")
@pytest.mark.parametrize(
    ("engine", "precision", "file", "named"),
    [
        ("abacus", "auto", "", "abacus"),
        ("auto", "fp12", "", "fp12"),
        ("auto", "int8", "", "there is no int8 graph.*`ros2-tracker quantize --model ostrack-b256` makes one"),
        ("torch", "fp16", "x.safetensors", "there is no NVIDIA GPU; torch on CPU: computes in fp32"),
        ("torch", "auto", "x.onnx", "there are no safetensors"),
        ("onnxruntime", "auto", "x.safetensors", "there is no graph"),
        ("auto", "fp16", "x.safetensors", "computes in fp32"),
        ("tensorrt", "auto", "x.onnx", "there is no NVIDIA GPU"),
        ("auto", "auto", "x.pth.tar", r"x\.pth\.tar"),
    ],
)
def test_what_does_not_go_together_is_named(folder: Path, engine: str, precision: str, file: str, named: str):
    if file:
        (folder / file).write_bytes(EMPTY_MODEL)
    with pytest.raises(ValueError, match=named):
        chosen(OSTRACK, engine, precision, folder / file if file else None)


@pytest.mark.parametrize("device", ["tpu", "cpu:1", "cuda:x", "cuda:-1", ""])
def test_unknown_device_is_named(device: str):
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        EngineSettings(device=device)


def test_gpu_that_is_asked_for_and_not_there():
    with pytest.raises(EngineError, match="onnxruntime on CUDA: there is no NVIDIA GPU"):
        chosen(DEFAULT, "onnxruntime", device="cuda")


def test_named_file_must_exist(folder: Path):
    with pytest.raises(WeightsMissingError, match=r"missing\.onnx"):
        chosen(DEFAULT, "auto", "int8", folder / "missing.onnx")


def test_everything_is_listed_for_the_doctor(folder: Path):
    options = list_options(DEFAULT, EngineSettings())
    labels = ["tensorrt", "torch on CUDA", "onnxruntime on CUDA", "onnxruntime on CPU", "torch on CPU"]
    assert [option.label for option in options] == labels
    assert [option.label for option in options if not option.missing] == ["onnxruntime on CPU"]


def test_the_reason_says_what_was_passed_over(folder: Path):
    engines = load_engines(DEFAULT)
    assert engines.reason.startswith("engine auto, precision int8 (tensorrt: there is no NVIDIA GPU;")


@pytest.mark.usefixtures("gpu_file")
def test_engine_that_fails_gives_way_to_the_next(folder: Path, caplog: pytest.LogCaptureFixture):
    """Nothing here can use the GPU that this machine seems to have; every engine that is installed finds out itself."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT is the first that is tried")
    engines = load_engines(DEFAULT)
    assert engines.per_frame.description.startswith("onnxruntime")
    assert "CPU" in engines.per_frame.description
    assert "tensorrt is not used for onestream-192: " in caplog.text
    assert re.search(r"tensorrt: (no|a) GPU .*used", engines.reason)


@pytest.mark.usefixtures("gpu_file")
def test_named_engine_is_not_replaced(folder: Path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT is named")
    with pytest.raises(EngineError, match=r"(no|a) GPU .*used"):
        load_engines(DEFAULT, EngineSettings("tensorrt"))


@pytest.fixture
def built(gpu_file: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """TensorRT engines are ONNX Runtime's of the same batch here, and pass their self-tests; the batches asked for."""
    from ros2_tracker.engines import tensorrt

    batches = []

    def load_instead(graph, name, precision, *, batch, cache, device, progress, cancel, self_test):
        progress("building", 0.5)
        batches.append(batch)
        engine = OnnxRuntimeEngine(graph, 1, batch=batch)
        assert "passed" in self_test(engine)
        return engine

    monkeypatch.setattr(load, "find_spec", lambda name: name)
    monkeypatch.setattr(tensorrt, "load_tensorrt_engine", load_instead)
    return batches


def three_targets() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    sides = {"template": 128, "search": 256}
    return [{name: rng.integers(0, 256, (side, side, 3), np.uint8) for name, side in sides.items()} for _ in range(3)]


def test_tensorrt_has_an_engine_for_one_and_one_for_several(folder: Path, built: list[int]):
    told = []
    engines = load_engines(DEFAULT, EngineSettings("tensorrt", "fp32"), lambda phase, fraction: told.append(phase))
    assert built == [1, 4]
    assert [phase for phase in told if phase.startswith("building")] == ["building", "building, for 4 targets"]
    targets, alone = three_targets(), OnnxRuntimeEngine(WEIGHTS_DIR / "onestream-192.onnx", 1)
    assert [count_runs(engines.per_frame, count) for count in (1, 3, 4, 5)] == [1, 1, 1, 2]
    for answer, target in zip(engines.per_frame.run(targets), targets, strict=True):
        np.testing.assert_allclose(answer["score_map"], alone.run([target])[0]["score_map"], atol=1e-5)


def test_without_an_engine_for_several_they_run_one_after_another(
    folder: Path, built: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", refusing_batches(OnnxRuntimeEngine.__init__))
    engines = load_engines(DEFAULT, EngineSettings("tensorrt", "fp32"))
    assert count_runs(engines.per_frame, 3) == 3
    assert len(engines.per_frame.run(three_targets())) == 3
    assert "several targets of onestream-192 run one after another: the GPU has not enough memory" in caplog.text


def refusing_batches(init):
    def refuse(self, graph, threads=0, gpu=None, tensorrt=None, batch=1):
        if batch not in (1, None):
            raise EngineError("the GPU has not enough memory")
        init(self, graph, threads, gpu, tensorrt, batch)

    return refuse


@pytest.mark.usefixtures("gpu_file")
def test_torch_without_cuda_gives_way(folder: Path, caplog: pytest.LogCaptureFixture):
    torch = pytest.importorskip("torch", reason="torch on a GPU is tried")
    import parity
    from safetensors.torch import save_file

    weights = folder / "stark-lightning.safetensors"
    entries = parity.synthetic_weights("stark_lightning", 51)
    save_file({name: torch.from_numpy(value.copy()) for name, value in entries.items()}, weights)
    engines = load_engines(load_variant("stark-lightning"))
    assert "torch" in engines.per_frame.description
    assert "torch on CUDA is not used for stark-lightning: this build of torch" in caplog.text


def test_metadata_of_damaged_files(folder: Path):
    graph = exported(folder, "x.onnx", variant="ostrack-b256", precision="fp16")
    assert read_metadata(graph)["precision"] == "fp16"
    whole = graph.read_bytes()
    for length in range(1, len(whole)):
        graph.write_bytes(whole[:length])
        with contextlib.suppress(EngineError):
            assert read_metadata(graph).items() <= {"variant": "ostrack-b256", "precision": "fp16"}.items()
    graph.write_bytes(b"\xff" * 100)
    with pytest.raises(EngineError, match=r"x\.onnx is no ONNX file"):
        read_metadata(graph)


def test_file_that_is_no_graph(folder: Path):
    broken = folder / "ostrack-b256.onnx"
    broken.write_bytes((WEIGHTS_DIR / "onestream-192.onnx").read_bytes()[:100_000])
    with pytest.raises(EngineError, match=r"ostrack-b256\.onnx"):
        load_onnx_engines(OSTRACK, broken)


def exported(folder: Path, name: str, **metadata: str) -> Path:
    """A small graph with the metadata of an export."""
    onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
    tensor = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("template", "box")]
    node = onnx.helper.make_node("Identity", ["template"], ["box"])
    graph = onnx.helper.make_graph([node], "small", tensor[:1], tensor[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, folder / name)
    return folder / name


def test_graph_of_another_variant_is_refused(folder: Path):
    graph = exported(folder, "ostrack-b256.onnx", variant="ostrack-b384")
    with pytest.raises(EngineError, match="is a graph of ostrack-b384, not of ostrack-b256"):
        load_onnx_engines(OSTRACK, graph)


def test_graph_that_is_older_than_its_weights_is_refused(folder: Path):
    from ros2_tracker.models.digest import file_sha256

    tensors = folder / "ostrack-b256.safetensors"
    tensors.write_bytes(b"old")
    graph = exported(folder, "ostrack-b256.onnx", variant="ostrack-b256", weights_sha256=file_sha256(tensors))
    assert load_onnx_engines(OSTRACK, graph).per_template is None
    tensors.write_bytes(b"new")
    with pytest.raises(EngineError, match="was exported from other weights"):
        load_onnx_engines(OSTRACK, graph)


def test_graph_without_its_template_graph(folder: Path):
    graph = exported(folder, "stark-s50.onnx")
    graph.write_bytes(graph.read_bytes().replace(b"template", b"tamplate"))
    with pytest.raises(EngineError, match=r"needs the template graph .*stark-s50\.template\.onnx"):
        load_onnx_engines(load_variant("stark-s50"), graph)
