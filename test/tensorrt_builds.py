"""Builds ONNX files into engines with TensorRT for RTX, which needs no GPU for that; prints what it saw, a line a file.

A program of its own because TensorRT keeps the first logger of a process, and only its log says what it fused.
"""

from __future__ import annotations

import json
import sys

import tensorrt_rtx as trt

BATCH_OF_FREE = 1


class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.messages = []

    def log(self, severity, message):
        self.messages.append((severity, message))


def tensors(count, get):
    found = [get(i) for i in range(count)]
    return {tensor.name: [tensor.dtype.name, list(tensor.shape)] for tensor in found}


def build(logger, file):
    logger.messages.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(file):
        return {"file": file, "errors": [str(parser.get_error(i)) for i in range(parser.num_errors)]}
    for i in range(network.num_inputs):  # as `engines.tensorrt_build` does
        tensor = network.get_input(i)
        if tensor.shape[0] == -1:
            tensor.shape = (BATCH_OF_FREE, *tuple(tensor.shape)[1:])
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    told = [message for _, message in logger.messages]
    return {
        "file": file,
        "errors": [m for severity, m in logger.messages if severity <= trt.ILogger.Severity.ERROR],
        "inputs": tensors(network.num_inputs, network.get_input),
        "outputs": tensors(network.num_outputs, network.get_output),
        "bytes": plan.nbytes if plan else 0,
        "attention": sum("oftmax" in m and "part of self-attention pattern" in m for m in told),
        "version": trt.__version__,
    }


if __name__ == "__main__":
    the_logger = Logger()
    for name in sys.argv[1:]:
        print(json.dumps(build(the_logger, name)), flush=True)
