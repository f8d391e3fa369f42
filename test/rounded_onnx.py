"""Runs an ONNX graph with the rounding that its types say.

ONNX Runtime computes fp16 graphs on a CPU in fp32 and rounds little but the weights, so it neither overflows nor shows
the error of an accelerator. This rounds every fp16 result, with sums of products in fp32 as accelerators have them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class MatMul(OpRun):
    def _run(self, a, b):
        return (_rounded(torch.matmul(_single(a), _single(b)), a),)


class Conv(OpRun):
    def _run(self, x, w, b=None, strides=None, pads=None, dilations=None, group=1, **_):
        assert pads[0] == pads[2]
        assert pads[1] == pads[3]
        bias = None if b is None else _single(b)
        return (_rounded(F.conv2d(_single(x), _single(w), bias, strides, pads[:2], dilations, group), x),)


class MaxPool(OpRun):
    def _run(self, x, kernel_shape=None, strides=None, pads=None, **_):
        return (_rounded(F.max_pool2d(_single(x), kernel_shape, strides, pads[:2]), x),)


class Erf(OpRun):
    def _run(self, x):
        return (_rounded(_single(x).erf(), x),)


class GatherElements(OpRun):
    """The reference one takes at most 64 elements a row."""

    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)


def _single(array):
    return torch.from_numpy(array.astype(np.float32))


def _rounded(tensor, like):
    return tensor.numpy().astype(like.dtype)


class RoundedOnnx:
    def __init__(self, model: Path | onnx.ModelProto):
        model = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
        self._evaluator = ReferenceEvaluator(model, new_ops=[MatMul, Conv, MaxPool, Erf, GatherElements])

    @torch.inference_mode()
    def run(self, inputs):
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = self._evaluator.run(None, {name: inputs[name] for name in self._evaluator.input_names})
        return dict(zip(self._evaluator.output_names, outputs, strict=True))
