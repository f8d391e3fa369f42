"""`ros2-tracker export`: write a network's graph and see that it is the network (`export_check`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.export import export_onnx
from ros2_tracker.evaluation.export_check import Agreement, check_export, rendered_questions
from ros2_tracker.models.build import load_network
from ros2_tracker.models.digest import file_sha256
from ros2_tracker.models.variant import Variant


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    model: str
    precision: str
    batch: int | None
    """Targets that one run handles; None for any number."""
    weights: str
    files: dict[str, int]
    """Path -> size, bytes."""
    check: Agreement | None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        lines = [f"{file}: {size / 1e6:.1f} MB" for file, size in self.files.items()]
        return "\n".join([*lines, "not checked" if self.check is None else self.check.as_text()])


def export_checked(
    variant: Variant,
    weights: Path,
    output: Path,
    precision: str = "fp32",
    batch: int | None = None,
    check: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> ExportReport:
    """Export to `output`, and a template graph beside it; what was there stays until the new files have been checked.

    Args:
        variant: whose network it is.
        weights: its safetensors file.
        output: the ONNX file.
        precision: as `engines.export.export_onnx` has it, and the batch too.
        batch: targets that one run handles; None for any number.
        check: whether to compare with torch.
        progress: told each step, for people.

    Raises:
        ValueError: the weights do not fit, or fp16 cannot hold one of them.
        EngineError: torch cannot export the network, or the graph answers otherwise than the network.

    """
    progress(f"loading {weights}")
    network = load_network(variant, weights)
    output.parent.mkdir(parents=True, exist_ok=True)
    agreement = None
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        files = export_onnx(
            network, variant, Path(folder) / output.name, batch, precision, file_sha256(weights), progress
        )
        if check:
            progress("comparing with torch")
            agreement = check_export(network, variant, files, rendered_questions())
            if agreement.problem:
                raise EngineError(f"{output} is not written: {agreement.problem}; --no-check writes it all the same")
        placed = [file.replace(output.with_name(file.name)) for file in files]
    sizes = {str(file): file.stat().st_size for file in placed}
    return ExportReport(variant.name, precision, batch, str(weights), sizes, agreement)
