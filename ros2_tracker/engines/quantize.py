"""From a fp32 ONNX graph to an int8 one, explicitly quantised: the graph itself says where 8 bits are used.

Int8 are the inputs and weights of convolutions and of matrix products with weights. A QuantizeLinear and a
DequantizeLinear before each input, and a DequantizeLinear behind the stored weights, are what TensorRT builds into int8
kernels. Scales are symmetric (zero point 0, as TensorRT wants it): one for an activation, one for each output channel
of a weight. In float stay

* image normalisation, and the convolutions that read the image or a map of half its resolution: their channels differ
  most in range, and TensorRT has no int8 kernel for some that read 3 channels;
* products of two activations (attention), LayerNormalization, Softmax, sums, biases;
* what only ranks candidates, all decoding, and the last convolutions before it, of few channels.

`onnxruntime.quantization` does the work; it needs `onnx`.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.calibrate import (
    CalibraterBase,
    EntropyCalibrater,
    MinMaxCalibrater,
    PercentileCalibrater,
    TensorsData,
)
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from ros2_tracker.engines.base import EngineError

METHODS: Mapping[str, tuple[type[CalibraterBase], Mapping[str, Any]]] = {
    "minmax": (MinMaxCalibrater, {}),
    "percentile": (PercentileCalibrater, {"percentile": 99.999}),
    "entropy": (EntropyCalibrater, {}),
}
"""How the range of an activation is found in what it held."""
DEFAULT_METHOD = "percentile"
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_QUANTIZED = {"DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
# Pixels of the image per cell of the finest map that is read in int8. With maps of 2, the shipped network's boxes are
# three times as far off.
_FINEST = 4
# Of a score, of corners, of a size and an offset, of four distances.
_LAST_CHANNELS = 4
# These make one product of a product and its sum, or move transpositions: TensorRT's patterns would no longer match.
_NOT_SIMPLIFIED_BY = ["MatMulAddFusion", "TransposeOptimizer"]
# The histograms of so many runs are made at once: all that they computed lies in memory until then.
_RUNS_AT_ONCE = 4


def require_float(graph: Path) -> onnx.ModelProto:
    """The graph, loaded.

    Raises:
        EngineError: it is no ONNX file, already quantised, or not in fp32.

    """
    try:
        model = onnx.load(graph)
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise EngineError(f"the network file {graph} does not exist") from error
    except OSError:
        raise
    except Exception as error:  # protobuf's and onnx's own, without a common base
        raise EngineError(f"{graph} is no ONNX file: {' '.join(str(error).split())[:200]}") from error
    found = sorted(_QUANTIZED & {node.op_type for node in model.graph.node})
    if found:
        raise EngineError(f"{graph} is quantised already (it has {found[0]}): name the fp32 graph")
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise EngineError(f"{graph} is a fp16 graph: name the fp32 graph")
    return model


def quantize_graph(
    source: Path,
    target: Path,
    runs: Sequence[Mapping[str, NDArray]],
    method: str = DEFAULT_METHOD,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda runs: None,
) -> int:
    """Write the int8 graph of a fp32 one.

    Its metadata is the source's and what is given, with `precision` int8 and `calibration_method`.

    Args:
        source: the fp32 graph.
        target: the file to write, in a folder that is there.
        runs: inputs of the graph by name, with the batch axis; what the network computes from them gives the ranges.
        method: one of METHODS.
        metadata: more of it.
        progress: told how many more runs are done.

    Returns:
        How many products are int8.

    Raises:
        ValueError: an unknown method, or no run.
        EngineError: as `require_float`; the graph has no product that could be quantised; ONNX Runtime refuses it.

    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, must be one of {', '.join(METHODS)}")
    if not runs:
        raise ValueError("there is nothing to calibrate with")
    told = {entry.key: entry.value for entry in require_float(source).metadata_props} | dict(metadata or {})
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize-") as folder, _quiet():
        simple = Path(folder) / "simple.onnx"
        try:
            products = _simplify(source, simple)
            if not products:
                raise EngineError(f"{source} has no convolution or matrix product that could be int8")
            quantizer = QDQQuantizer(
                load_model_with_shape_infer(simple),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8,
                tensors_range=_ranges(simple, products, runs, method, progress),
                nodes_to_quantize=products,
                nodes_to_exclude=[],
                op_types_to_quantize=list(_PRODUCTS),
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,  # TensorRT knows no int32 bias
                    "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),  # what is not read by a product stays float
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            model = quantizer.model.model
        except (EngineError, OSError):
            raise
        except Exception as error:  # onnxruntime raises classes of its own without a common public base
            raise EngineError(f"onnxruntime cannot quantise {source}: {' '.join(str(error).split())}") from error
    _keep_float_for_others(model)
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.helper.set_model_props(model, told | {"precision": "int8", "calibration_method": method})
    onnx.save(model, target)
    return len(products)


def _ranges(
    graph: Path,
    products: Sequence[str],
    runs: Sequence[Mapping[str, NDArray]],
    method: str,
    progress: Callable[[int], None],
) -> TensorsData:
    """The ranges of what the products read. `quantize_static` would look at three times as much."""
    nodes = {node.name: node for node in onnx.load(graph, load_external_data=False).graph.node}
    read = {nodes[name].input[0] for name in products}
    kind, options = METHODS[method]

    class Calibrater(kind):  # type: ignore[misc, valid-type]
        def select_tensors_to_calibrate(
            self, model: onnx.ModelProto
        ) -> tuple[set[str], dict[str, onnx.ValueInfoProto]]:
            tensors, infos = super().select_tensors_to_calibrate(model)
            return tensors & read, infos

    calibrater = Calibrater(graph, list(_PRODUCTS), str(graph.with_name("observed.onnx")), symmetric=True, **options)
    calibrater.augment_graph()
    calibrater.create_inference_session()
    for start in range(0, len(runs), _RUNS_AT_ONCE):
        calibrater.collect_data(_Runs(runs[start : start + _RUNS_AT_ONCE], progress))
    return calibrater.compute_data()


class _Runs(CalibrationDataReader):
    """Hands out runs."""

    def __init__(self, runs: Sequence[Mapping[str, NDArray]], progress: Callable[[int], None]) -> None:
        self._runs, self._progress = iter(runs), progress

    def get_next(self) -> dict[str, NDArray] | None:
        """The next one; None at the end."""
        run = next(self._runs, None)
        if run is None:
            return None
        self._progress(1)
        return dict(run)


def _simplify(source: Path, target: Path) -> list[str]:
    """Fold constants, so that weights are where they are used; returns the names of the products to quantise."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=_NOT_SIMPLIFIED_BY
    )
    model = onnx.load(target)
    unnamed = [node for node in model.graph.node if not node.name]
    for i, node in enumerate(unnamed):
        node.name = f"unnamed_{i}"  # nodes are chosen by name
    if unnamed:
        onnx.save(model, target)
    return _products(model)


def _products(model: onnx.ModelProto) -> list[str]:
    """Names of the products with weights, but for the first and the last ones; see the module's text."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    reaching = _reaching_outputs(model.graph)
    cells: dict[str, int] = {}  # of what came of an image: its pixels per cell
    names = []
    for node in model.graph.node:
        pixels = max((cells.get(name, 1) for name in node.input), default=1)
        strides = next((a.ints for a in node.attribute if a.name == "strides"), (1,))
        cells.update(dict.fromkeys(node.output, pixels * strides[0]))
        weights = shapes.get(node.input[1]) if node.op_type in _PRODUCTS else None
        if weights is None or len(weights) < 2:
            continue
        if reaching.isdisjoint(node.output):
            continue
        if node.op_type == "Conv" and (pixels < _FINEST or weights[0] <= _LAST_CHANNELS):
            continue
        if node.op_type != "Conv" and min(weights) <= _LAST_CHANNELS:
            continue
        names.append(node.name)
    return names


def _reaching_outputs(graph: onnx.GraphProto) -> set[str]:
    """Values that take part in a result otherwise than by their order, which is what ranking candidates needs."""
    reaching = {output.name for output in graph.output}
    for node in reversed(graph.node):
        values = node.output[:1] if node.op_type == "TopK" else node.output
        if node.op_type not in ("ArgMax", "ArgMin") and not reaching.isdisjoint(values):
            reaching.update(node.input)
    return reaching


def _keep_float_for_others(model: onnx.ModelProto) -> None:
    """Let sums, LayerNormalization and the like read what was there before it was rounded for a product.

    ONNX Runtime hands the rounded values to all readers, those of residual connections too.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in _PRODUCTS:
            continue
        for i, name in enumerate(node.input):
            made = producers.get(name)
            rounded = producers.get(made.input[0]) if made and made.op_type == "DequantizeLinear" else None
            if rounded is not None:
                node.input[i] = rounded.input[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's remarks on the root logger and on stdout; errors pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
