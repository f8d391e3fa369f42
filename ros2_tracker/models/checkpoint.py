"""Official checkpoints to safetensors, without ever running what is pickled in them (SPEC 0.6, 3.8)."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ros2_tracker.models.build import build_network, listed, misfits
from ros2_tracker.models.digest import file_sha256
from ros2_tracker.models.variant import Variant, load_variant

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("net", "state_dict")
# How InMo's training code names what its authors published (SPEC 3.8): beginning -> that of the network's entries.
_BEGINNINGS = {"module.": "", "features.features.": "backbone."}
# What the training code of OSTrack and STARK pickled beside the weights. An instance becomes an empty object.
_FOREIGN_CLASSES = (
    "lib.train.admin.settings.Settings",
    "lib.train.admin.stats.AverageMeter",
    "lib.train.admin.stats.StatValue",
    "lib.train.admin.local.EnvironmentSettings",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
# A dict by nature, and filled item by item, which the restricted unpickler grants to few classes.
_FOREIGN_DICTS = ("easydict.EasyDict",)
_UNKNOWN_GLOBAL = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module)")
# In official state dicts, in no network of ours (SPEC 1.6).
_UNUSED_ENTRIES = ("backbone.cls_token", "backbone.pos_embed")
# Frozen batch normalisations have no counter, but some files keep it (SPEC 2.2).
_UNUSED_ENDING = ".num_batches_tracked"


class CheckpointError(ValueError):
    """A file that is not taken. The text names the first reasons, `problems` all of them, one by one."""

    def __init__(self, file: Path, problems: list[str]) -> None:
        super().__init__(f"{file}: {listed(problems)}")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a checkpoint."""

    variant: str
    source: Path
    sha256: str
    """Of the source."""
    output: Path
    entries: int
    """Written."""
    unused: tuple[str, ...]
    """Entries of the source that no network of ours needs."""


def import_checkpoint(file: str | Path, model: str, output: str | Path) -> ImportReport:
    """Write the weights of an official checkpoint as a safetensors file.

    Args:
        file: what the authors published: zip or older container, weights under `net`, `state_dict` or bare.
        model: the variant they belong to.
        output: the safetensors file to write; its metadata holds `variant` and the source's `sha256`.

    Raises:
        ValueError: an unknown model.
        FileNotFoundError: there is no such file.
        CheckpointError: the file is no checkpoint, holds unknown classes, or does not fit the model. Nothing was
            executed or written.

    """
    from safetensors.torch import save_file

    source, target, variant = Path(file), Path(output), load_variant(model)
    sha256 = file_sha256(source)
    weights, unused = _fitted(read_weights(source), variant, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file(weights, unfinished, metadata={"variant": variant.name, "sha256": sha256})
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return ImportReport(variant.name, source, sha256, target, len(weights), unused)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint; CheckpointError when it cannot be had safely."""
    content = _restricted_load(file)
    weights = content
    if isinstance(content, Mapping):
        weights = next((content[name] for name in _WRAPPERS if name in content), content)
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(file, [f"holds no weights: there is no dict under {' or '.join(map(repr, _WRAPPERS))}"])
    import torch

    strangers = [str(key) for key, value in weights.items() if not isinstance(value, torch.Tensor)]
    if strangers:
        raise CheckpointError(file, [f"entry {name} is not a tensor" for name in strangers])
    return {_plain_name(str(name)): value for name, value in weights.items()}


def _plain_name(name: str) -> str:
    for beginning, instead in _BEGINNINGS.items():
        if name.startswith(beginning):
            name = instead + name.removeprefix(beginning)
    return name


def _restricted_load(file: Path) -> Any:
    """The pickled dict with empty objects for the foreign classes; unknown globals are named, none is imported."""
    import torch

    stand_ins: list[tuple[Any, str]] = [(_stand_in(name), name) for name in _FOREIGN_CLASSES]
    stand_ins += [(OrderedDict, name) for name in _FOREIGN_DICTS]
    unknown: list[str] = []
    mapped = zipfile.is_zipfile(file)  # then the optimiser's tensors are never read
    while True:
        try:
            with torch.serialization.safe_globals(stand_ins):
                content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
            named = _UNKNOWN_GLOBAL.search(str(error))
            if named is None:
                reasons = [_unknown_text(name) for name in unknown]
                raise CheckpointError(file, reasons or [f"is no checkpoint: {_first_line(error)}"]) from error
            name = named[1] if "." in named[1] else f"builtins.{named[1]}"
            unknown.append(name)
            if name in unknown[:-1] or "whose module" in named[0]:
                break
            # Refused already; read on with an empty class in its place, only to name the others too.
            stand_ins.append((_stand_in(name), name))
            continue
        break
    if unknown:
        raise CheckpointError(file, [_unknown_text(name) for name in dict.fromkeys(unknown)])
    return content


def _stand_in(name: str) -> type:
    """An empty class of its own, which takes any arguments and state and keeps none."""
    methods = {
        "__new__": lambda cls, *args, **kwargs: object.__new__(cls),
        "__init__": lambda self, *args, **kwargs: None,
        "__setstate__": lambda self, state: None,
    }
    return type(f"StandIn_{name.replace('.', '_')}", (), methods)


def _unknown_text(name: str) -> str:
    return f"holds the unknown global {name}, which is not loaded"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]


def _fitted(weights: dict[str, Tensor], variant: Variant, file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights exactly as the variant's network has them, and the names left out; CheckpointError names what differs."""
    expected = build_network(variant, empty=True).state_dict()
    unused = [n for n in weights if n not in expected and (n in _UNUSED_ENTRIES or n.endswith(_UNUSED_ENDING))]
    problems = misfits({name: value for name, value in weights.items() if name not in unused}, expected)
    if problems:
        raise CheckpointError(file, problems)
    fitted = {name: weights[name].to(value.dtype).contiguous().clone() for name, value in expected.items()}
    return fitted, tuple(unused)
