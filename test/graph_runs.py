"""One graph as an exported file and in torch, asked in the same way: inputs by name, with the batch axis."""

from __future__ import annotations

import onnxruntime
import torch


class Runtime:
    """A file in ONNX Runtime."""

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, inputs):
        names = [node.name for node in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs), strict=True))


class Torch:
    """A graph of `models.graphs`."""

    def __init__(self, graph):
        self.graph = graph

    @torch.inference_mode()
    def run(self, inputs):
        outputs = self.graph(*(torch.from_numpy(inputs[name]) for name in self.graph.inputs))
        return {name: value.numpy() for name, value in zip(self.graph.outputs, outputs, strict=True)}
