"""What a graph was exported from: asked before it is run, so that an old or foreign one is found out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ros2_tracker.engines.base import EngineError
from ros2_tracker.models.digest import file_sha256
from ros2_tracker.models.variant import Variant, find_weights

# Numbers of fields in onnx.proto: ModelProto.metadata_props, and key and value of its entries.
_METADATA, _KEY, _VALUE = 14, 1, 2
ANY_BATCH = "any"
"""What the metadata of a graph that takes any number of targets says of its batch."""
BATCH_AXIS = "batch"
"""The name of the first axis of such a graph's inputs and outputs."""
_SKIPPED_BYTES = {1: 8, 5: 4}
"""Of Protocol Buffers' wire types of fixed length."""


def read_metadata(graph: Path) -> dict[str, str]:
    """What `engines.export` wrote into an ONNX file, without reading its weights; empty for graphs of others.

    Raises:
        EngineError: the file is not there or is no ONNX file.

    """
    try:
        size = graph.stat().st_size
        with graph.open("rb") as stream:
            return dict(_entry(stream, length) for length in _metadata_lengths(stream, size))
    except OSError as error:
        raise EngineError(f"the network file {graph} cannot be read: {error}") from error
    except (EOFError, ValueError) as error:
        raise EngineError(f"{graph} is no ONNX file: {error}") from error


def batch_of(metadata: Mapping[str, str]) -> int | None:
    """Targets that one run of a graph handles, None for any number; 1 for graphs that do not say."""
    batch = metadata.get("batch", "1")
    return None if batch == ANY_BATCH else int(batch)


def check_origin(variant: Variant, graph: Path, metadata: Mapping[str, str]) -> None:
    """EngineError for a graph of another variant, or one exported from other weights than those that lie beside it."""
    name = metadata.get("variant", variant.name)
    if name != variant.name:
        raise EngineError(f"{graph} is a graph of {name}, not of {variant.name}")
    tensors = find_weights(variant.weights) if variant.weights else None
    recorded = metadata.get("weights_sha256")
    if tensors is None or not recorded or tensors.parent != graph.parent:
        return
    if file_sha256(tensors) != recorded:
        raise EngineError(
            f"{graph} was exported from other weights than {tensors}: export it again, or name the file that you mean"
        )


def _metadata_lengths(stream: BinaryIO, size: int) -> Iterator[int]:
    """Go through a ModelProto; yields the length of each metadata entry, with the stream at its start."""
    while stream.tell() < size:
        field, wire = divmod(_varint(stream), 8)
        if wire == 0:
            _varint(stream)
            continue
        length = _varint(stream) if wire == 2 else _SKIPPED_BYTES.get(wire, 0)
        end = stream.tell() + length
        if (not length and wire != 2) or end > size or field == 0:
            raise ValueError(f"unexpected content at byte {stream.tell()}")
        if field == _METADATA:
            yield length
        stream.seek(end)


def _entry(stream: BinaryIO, length: int) -> tuple[str, str]:
    """One StringStringEntryProto."""
    end = stream.tell() + length
    texts = {_KEY: "", _VALUE: ""}
    while stream.tell() < end:
        field, wire = divmod(_varint(stream), 8)
        if wire != 2:
            raise ValueError("a metadata entry is not a pair of texts")
        texts[field] = stream.read(_varint(stream)).decode()
    return texts[_KEY], texts[_VALUE]


def _varint(stream: BinaryIO) -> int:
    value = shift = 0
    while shift < 64:
        byte = stream.read(1)
        if not byte:
            raise EOFError("it ends too early")
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
        shift += 7
    raise ValueError("a number has more than 64 bits")
