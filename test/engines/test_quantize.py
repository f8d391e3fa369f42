"""int8 graphs: what in them is int8, what stays float, and that TensorRT builds them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="quantising needs onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ros2_tracker.engines.base import EngineError, Engines  # noqa: E402
from ros2_tracker.engines.onnxruntime import OnnxRuntimeEngine, load_onnx_engines  # noqa: E402
from ros2_tracker.engines.quantize import METHODS, quantize_graph  # noqa: E402
from ros2_tracker.engines.self_test import self_test  # noqa: E402
from ros2_tracker.evaluation.quantize import quantize_checked  # noqa: E402
from ros2_tracker.evaluation.synthetic import SyntheticClip  # noqa: E402
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant, template_graph  # noqa: E402

FP32 = WEIGHTS_DIR / "onestream-192.onnx"
PRODUCTS = {"Conv", "Gemm", "MatMul"}


def runs(count: int = 4) -> list[dict[str, np.ndarray]]:
    """The rendered clip as crops of the shipped network."""
    from ros2_tracker.tracking.frame import frame_from_array
    from ros2_tracker.tracking.onestream import OneStream

    family, clip = OneStream(load_variant("onestream-192")), SyntheticClip(count, fps=3.0)
    first = clip.render(0)
    appearance = family.appearance(frame_from_array(first.image), first.box)
    looks = [family.look(appearance, frame_from_array(found.image), found.box) for found in clip.frames()]
    return [{name: value[None] for name, value in look.inputs.items()} for look in looks]


@pytest.fixture(scope="module")
def int8(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("int8") / "small.onnx"
    assert quantize_graph(FP32, file, runs(), "minmax", {"variant": "onestream-192"}) == 66
    return file


def readers(model) -> dict[str, list]:
    found: dict[str, list] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def test_only_products_with_weights_are_int8(int8: Path):
    """Read off the graph: 8 bits are nowhere but before convolutions and products with weights."""
    model = onnx.load(int8)
    onnx.checker.check_model(model, full_check=True)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    used = readers(model)
    assert {opset.domain for opset in model.opset_import} == {""}
    scaled = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in scaled:
        scale, zero = weights[node.input[1]], weights[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0.0).all()
        if node.op_type == "QuantizeLinear":
            assert scale.ndim == 0
            assert {reader.op_type for reader in used[node.output[0]]} == {"DequantizeLinear"}
        else:
            assert {reader.op_type for reader in used[node.output[0]]} <= PRODUCTS
    quantized = 0
    for node in model.graph.node:
        if node.op_type not in PRODUCTS:
            continue
        sources = [producers.get(name) for name in node.input[:2]]
        kinds = [source.op_type if source else "weights" for source in sources]
        if "DequantizeLinear" not in kinds:
            continue
        assert kinds == ["DequantizeLinear", "DequantizeLinear"]
        values, scale = (weights[name] for name in sources[1].input[:2])
        axis = next(a.i for a in sources[1].attribute if a.name == "axis")
        assert values.dtype == np.int8
        assert scale.shape == (values.shape[axis],)
        assert axis == (0 if node.op_type == "Conv" else 1)  # the output channels
        if len(node.input) == 3:
            assert weights[node.input[2]].dtype == np.float32
        quantized += 1
    assert quantized == 66


def test_first_and_last_convolutions_and_attention_stay_float(int8: Path):
    model = onnx.load(int8)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    floats = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    shapes = [weights[node.input[1]] for node in floats]
    # The image at full and at half resolution, of template and search; the scores and the distances.
    first, last = [(24, 3, 3, 3), (72, 24, 1, 1), (72, 1, 3, 3)], [(1, 128, 1, 1), (4, 128, 1, 1)]
    assert sorted(shapes) == sorted(2 * first + last)
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    of_activations = [
        node
        for node in model.graph.node
        if node.op_type == "MatMul" and producers.get(node.input[1]) != "DequantizeLinear"
    ]
    assert len(of_activations) == 2 * 6  # twice in each of six blocks
    for node in of_activations:
        assert "DequantizeLinear" not in {producers.get(name) for name in node.input}


def test_answers_are_close_to_fp32(int8: Path):
    quantized, exact = OnnxRuntimeEngine(int8, 1), OnnxRuntimeEngine(FP32, 1)
    for inputs in runs(6):
        given = [{name: value[0] for name, value in inputs.items()}]
        ours, theirs = quantized.run(given)[0], exact.run(given)[0]
        assert np.abs(ours["score_map"] - theirs["score_map"]).max() < 0.2
        row, column = np.unravel_index(theirs["score_map"].argmax(), theirs["score_map"].shape)
        assert np.abs(ours["ltrb"] - theirs["ltrb"])[:, row, column].max() < 0.03
    assert not self_test(Engines(quantized), Engines(exact), "fp32").passed


def test_metadata_is_kept_and_added_to(tmp_path: Path):
    model = onnx.load(FP32)
    helper.set_model_props(model, {"precision": "fp32", "batch": "1", "weights_sha256": "abc"})
    source = tmp_path / "fp32.onnx"
    onnx.save(model, source)
    quantize_graph(source, tmp_path / "int8.onnx", runs(1), "minmax", {"calibration_frames": "1"})
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "int8.onnx").metadata_props}
    assert found == {
        "precision": "int8",
        "batch": "1",
        "weights_sha256": "abc",
        "calibration_frames": "1",
        "calibration_method": "minmax",
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fp32.onnx", "int8.onnx"]


def product(tmp_path: Path, seen: list[np.ndarray], method: str) -> float:
    """The activation's scale of one matrix product that was calibrated with these inputs."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]  # no name: it is given one
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4096, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "product", tensors[:1], tensors[1:], [weights])
    source = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), source)
    target = tmp_path / f"{method}.onnx"
    told: list[int] = []
    assert quantize_graph(source, target, [{"x": x} for x in seen], method, progress=told.append) == 1
    assert sum(told) == len(seen)
    model = onnx.load(target)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return float(scales[next(n for n in model.graph.node if n.op_type == "QuantizeLinear").input[1]])


def test_a_product_that_only_ranks_stays_float(tmp_path: Path):
    """x w sorts the rows of x; the best of them, times v, is the answer."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["ranks"], name="ranking"),
        helper.make_node("ReduceMax", ["ranks", "last"], ["rank"], keepdims=0),
        helper.make_node("TopK", ["rank", "k"], ["sorted", "order"]),
        helper.make_node("Gather", ["x", "order"], ["best"], axis=0),
        helper.make_node("MatMul", ["best", "v"], ["y"], name="answer"),
    ]
    constants = {"w": np.eye(8, dtype=np.float32), "v": np.eye(8, dtype=np.float32)}
    constants |= {"last": np.array([1], np.int64), "k": np.array([2], np.int64)}
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, 8]) for n, rows in (("x", 6), ("y", 2))]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "ranking", tensors[:1], tensors[1:], initializers)
    source = tmp_path / "fp32.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), source)
    x = np.random.default_rng(3).normal(size=(6, 8)).astype(np.float32)
    assert quantize_graph(source, tmp_path / "int8.onnx", [{"x": x}], "minmax") == 1
    by_name = {node.name: node for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert list(by_name["ranking"].input) == ["x", "w"]
    assert by_name["answer"].input[0] != "best"


@pytest.mark.parametrize("method", METHODS)
def test_the_range_comes_from_the_runs(tmp_path: Path, method: str):
    rng = np.random.default_rng(1)
    seen = [rng.uniform(-1.0, 2.0, (1, 4096, 8)).astype(np.float32) for _ in range(3)]
    assert product(tmp_path, seen, method) == pytest.approx(2.0 / 127, rel=0.1)


def test_percentile_cuts_a_single_outlier_and_minmax_does_not(tmp_path: Path):
    rng = np.random.default_rng(2)
    seen = [rng.uniform(-1.0, 1.0, (1, 4096, 8)).astype(np.float32) for _ in range(8)]
    seen[3][0, 0, 0] = 50.0
    assert product(tmp_path, seen, "minmax") == pytest.approx(50.0 / 127, rel=0.01)
    assert product(tmp_path, seen, "percentile") < 10.0 / 127


def test_what_cannot_be_quantized_is_named(int8: Path, tmp_path: Path):
    half, junk, empty = (tmp_path / name for name in ("half.onnx", "junk.onnx", "empty.onnx"))
    tensor = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    opset = [helper.make_opsetid("", 18)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", tensor[:1], tensor[1:]), opset_imports=opset, ir_version=10),
        empty,
    )
    weights = numpy_helper.from_array(np.ones(1, np.float16), "w")
    graph = helper.make_graph(nodes, "g", tensor[:1], tensor[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), half)
    junk.write_bytes(FP32.read_bytes()[:50_000])
    for source, said in (
        (int8, "is quantised already"),
        (WEIGHTS_DIR / "onestream-192.int8.onnx", "is quantised already"),
        (half, "is a fp16 graph"),
        (junk, "is no ONNX file"),
        (tmp_path / "none.onnx", "does not exist"),
        (empty, "has no convolution or matrix product"),
    ):
        with pytest.raises(EngineError, match=said):
            quantize_graph(source, tmp_path / "out.onnx", [{"x": np.ones(1, np.float32)}], "minmax")
    with pytest.raises(ValueError, match="nothing to calibrate with"):
        quantize_graph(FP32, tmp_path / "out.onnx", [])
    with pytest.raises(ValueError, match="method is 'guess'"):
        quantize_graph(FP32, tmp_path / "out.onnx", runs(1), "guess")
    assert not (tmp_path / "out.onnx").exists()


def builds(*files: Path) -> list[dict]:
    """What TensorRT for RTX says of them."""
    program = Path(__file__).parents[1] / "tensorrt_builds.py"
    command = [sys.executable, str(program), *map(str, files)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    return [json.loads(line) for line in child.stdout.splitlines()]


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs `pip install tensorrt-rtx`")
def test_tensorrt_builds_it_and_not_the_one_that_scales_at_run_time(int8: Path):
    explicit, dynamic = builds(int8, WEIGHTS_DIR / "onestream-192.int8.onnx")
    assert explicit["errors"] == []
    assert explicit["bytes"] > 2_000_000
    assert explicit["outputs"] == {"score_map": ["FLOAT", [1, 16, 16]], "ltrb": ["FLOAT", [1, 4, 16, 16]]}
    if explicit["version"].startswith("1.7"):  # what its log says
        assert explicit["attention"] == 6
    assert "DynamicQuantizeLinear" in " ".join(dynamic["errors"])


def sequence(folder: Path, frames: int = 8) -> Path:
    """The rendered clip in OTB layout."""
    import cv2

    (folder / "img").mkdir(parents=True)
    boxes = []
    for i, found in enumerate(SyntheticClip(frames, fps=3.0).frames()):
        cv2.imwrite(str(folder / "img" / f"{i:04d}.jpg"), found.image)
        boxes.append(",".join(f"{v:.2f}" for v in found.box.as_tuple()))
    (folder / "groundtruth_rect.txt").write_text("\n".join(boxes))
    return folder


def exported_ostrack(folder: Path) -> Path:
    """A narrow OSTrack with elimination, for a batch of 2."""
    torch = pytest.importorskip("torch", reason="the export needs torch")
    pytest.importorskip("onnxscript", reason="the export needs onnxscript")
    from ros2_tracker.engines.export import export_onnx
    from ros2_tracker.models.ostrack import Elimination, OSTrack, OSTrackSettings

    torch.manual_seed(3)
    network = OSTrack(OSTrackSettings(width=48, depth=2, heads=2, elimination=Elimination(blocks=(0,)))).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.requires_grad_(False)
    return export_onnx(network, load_variant("ostrack-b256"), folder / "fp32.onnx", batch=2)[0]


def exported_stark(folder: Path) -> Path:
    pytest.importorskip("torch", reason="the export needs torch")
    pytest.importorskip("onnxscript", reason="the export needs onnxscript")
    import parity

    from ros2_tracker.engines.export import export_onnx
    from ros2_tracker.models.stark import StarkLightning

    network = parity.load_synthetic(StarkLightning(), "stark_lightning", 51)
    return export_onnx(network, load_variant("stark-lightning"), folder / "fp32.onnx")[0]


@pytest.mark.parametrize(
    ("name", "exported", "products"), [("ostrack-b256", exported_ostrack, 20), ("stark-lightning", exported_stark, 18)]
)
def test_other_families(tmp_path: Path, name: str, exported, products: int):
    """With random weights, whose boxes say nothing: that all of it goes through, and what TensorRT makes of it."""
    variant, graph = load_variant(name), exported(tmp_path)
    output = tmp_path / "int8.onnx"
    report = quantize_checked(variant, graph, sequence(tmp_path / "s"), output, 4, "minmax", check=False, threads=1)
    assert report.products >= products
    assert (report.frames, report.check) == (4, None)
    engines = load_onnx_engines(variant, output, 1)
    reference = load_onnx_engines(variant, graph, 1)
    assert engines.per_frame.batch == reference.per_frame.batch
    assert engines.per_frame.inputs == reference.per_frame.inputs
    files = [output]
    if engines.per_template is not None:
        assert template_graph(output).read_bytes() == template_graph(graph).read_bytes()
        files.append(template_graph(output))
    assert list(report.files) == [str(file) for file in files]
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert metadata["variant"] == name
    assert metadata["precision"] == "int8"
    assert (metadata["calibration_frames"], metadata["calibration_method"]) == ("4", "minmax")
    model = onnx.load(output)
    used = readers(model)
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    assert {reader.op_type for name in dequantized for reader in used[name]} <= PRODUCTS  # no ranking, no decoding
    if find_spec("tensorrt_rtx") is not None:
        assert [each["errors"] for each in builds(*files)] == [[]] * len(files)
