"""A run's settings: YAML -> dataclasses. Unknown keys and values of a wrong type or range are named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ros2_tracker.training.augment import AugmentSettings
from ros2_tracker.training.limits import check_choice, check_range
from ros2_tracker.training.objectives import OBJECTIVES, LossSettings
from ros2_tracker.training.sampling import SamplingSettings

# What may differ when a run goes on: it changes where and how fast, not what is learnt.
_FREE = (
    "output",
    "init_from",
    "device",
    "log_every",
    "checkpoint_seconds",
    "data.folder",
    "data.cache",
    "data.workers",
)


class ConfigError(ValueError):
    """A config that cannot be used; the text names file, key and value."""


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One set of images."""

    format: str = "packs"
    """packs, got10k, lasot, trackingnet or coco."""
    path: str = "."
    """Its folder, below `data.folder`."""
    only: tuple[str, ...] = ()
    """Names of packs; empty for all."""

    def __post_init__(self) -> None:
        """ValueError for an unknown format."""
        check_choice("format", self.format, ("packs", "got10k", "lasot", "trackingnet", "coco"))


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where images come from."""

    folder: str = "."
    """Relative to the config file; `--data` names another."""
    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    source_weights: dict[str, float] = field(default_factory=dict)
    """Name of a source -> how much more often its tracks are taken than others; 0 is never. A pack is a source of its
    own name; another folder has its `path`, or its `format` where that is `.`."""
    hold_out_sources: tuple[str, ...] = ()
    """Sources for validation alone."""
    hold_out_share: float = 0.02
    """Share of the other sources' tracks for validation alone."""
    cache: str = "none"
    """Where decoded crops stay: `none`, `memory`, `device`. 372 kB each; decoding is the slowest part by far."""
    workers: int = 2
    """Threads that prepare batches ahead; 0 prepares them in between."""

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        check_choice("cache", self.cache, ("none", "memory", "device"))
        check_range("hold_out_share", self.hold_out_share, 0.0, 0.9)
        check_range("workers", self.workers, 0, 256)


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine to the end."""

    steps: int = 10_000
    batch: int = 256
    """Samples a step, over all GPUs."""
    learning_rate: float = 1e-3
    final_rate: float = 0.01
    """Learning rate of the last step, as a share of the highest."""
    warmup_steps: int = 200
    weight_decay: float = 0.05
    """Of matrices and kernels; not of biases, norms and positions."""
    clip_norm: float = 1.0
    """Longest gradient."""
    ema_decay: float = 0.999
    """Of the average of the weights that is written; higher is smoother, and needs more steps."""
    rate_factors: dict[str, float] = field(default_factory=dict)
    """Start of parameters' names -> factor of their learning rate (`backbone.: 0.1`); 0 leaves them as they are, and
    saves the time of their gradients."""

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        check_range("steps", self.steps, 1, 10**9)
        check_range("batch", self.batch, 1, 10**6)
        check_range("learning_rate", self.learning_rate, 0.0, 10.0)
        check_range("final_rate", self.final_rate, 0.0, 1.0)
        check_range("warmup_steps", self.warmup_steps, 0, 10**9)
        check_range("weight_decay", self.weight_decay, 0.0, 10.0)
        check_range("clip_norm", self.clip_norm, 1e-6, 1e6)
        check_range("ema_decay", self.ema_decay, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class ValidationConfig:
    """Mean IoU on held-out pairs, the same ones in every run on the same data."""

    every: int = 500
    """Steps between two; 0 for none."""
    pairs: int = 512

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        check_range("every", self.every, 0, 10**9)
        check_range("pairs", self.pairs, 1, 10**6)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """All of it."""

    model: str
    """The variant that is trained."""
    output: str
    """Folder that is written to, relative to the working directory; `--output` names another."""
    network: dict[str, Any] = field(default_factory=dict)
    """Settings of the family's network that differ from the variant's, such as drop_path."""
    objective: str = "center"
    """center (OSTrack, Multi-Stage), ibfp, ibfp-start (before it, from random weights), inmo, stark-box, stark-score
    (STARK's second stage)."""
    init_from: str | None = None
    """A safetensors file, relative to the config; entries that fit are taken over."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda, cuda:N."""
    precision: str = "auto"
    """fp32, bf16; auto is bf16 where the device computes in it."""
    deterministic: bool = True
    """On CUDA: only kernels that give the same result every time; somewhat slower."""
    log_every: int = 20
    """Steps a row of curves.csv."""
    checkpoint_seconds: float = 120.0
    bad_steps: int = 10
    """Steps in a row without a finite loss after which training stops."""
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("precision", self.precision, ("auto", "fp32", "bf16"))
        check_range("seed", self.seed, 0, 2**63 - 1)
        check_range("log_every", self.log_every, 1, 10**9)
        check_range("checkpoint_seconds", self.checkpoint_seconds, 0.0, 1e6)
        check_range("bad_steps", self.bad_steps, 1, 10**6)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        return json.loads(json.dumps(asdict(self)))

    def digest(self) -> str:
        """Of everything that changes what is learnt."""
        text = json.dumps(_flat(self.as_dict()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What differs from another run's `as_dict` and must not when it goes on, a text each."""
        mine, theirs = _flat(self.as_dict()), _flat(other)
        return [
            f"{key} was {theirs.get(key)!r}, is {mine.get(key)!r}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]


def load_config(file: Path) -> TrainingConfig:
    """Read a config; ConfigError names what is wrong in it. Its relative paths are made relative to its folder."""
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    config = from_dict(data, str(file))
    beside = config.as_dict()
    beside["data"]["folder"] = str(file.parent / config.data.folder)
    if config.init_from is not None:
        beside["init_from"] = str(file.parent / config.init_from)
    return from_dict(beside, str(file))


def from_dict(data: Any, where: str = "config") -> TrainingConfig:
    """From plain values; ConfigError names what is wrong."""
    return _filled(TrainingConfig, data, where)


def _filled(kind: Any, data: Any, where: str) -> Any:
    """An instance of a dataclass from a mapping."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {data!r}")
    known = {f.name: f for f in fields(kind)}
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
    for name, f in known.items():
        if name not in data and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where}: {name} is missing")
    hints = typing.get_type_hints(kind)
    values = {key: _converted(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _converted(kind: Any, value: Any, where: str) -> Any:
    """A YAML value as the type that a field has."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _converted(arguments[0], value, where)
    if is_dataclass(kind):
        return _filled(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}, must be a list")
        return tuple(_converted(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{where} is {value!r}, must be keys and values")
        return {key: _converted(arguments[1], v, f"{where}.{key}") for key, v in value.items()}
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text.
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is not Any and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ConfigError(f"{where} is {value!r}, must be {_NAMES[kind]}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where} is {value!r}, must be finite")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots, without those that may differ."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if name in _FREE:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value
    return flat
