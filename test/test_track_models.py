"""`ros2-tracker track` with InMo and IBFP by name, from a file of weights where it is looked for."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import yaml

torch = pytest.importorskip("torch", reason="the networks need torch")
save_file = pytest.importorskip("safetensors.torch", reason="weights are kept as safetensors").save_file

from ros2_tracker.cli import main  # noqa: E402
from ros2_tracker.evaluation.synthetic import SyntheticClip  # noqa: E402
from ros2_tracker.models import variant  # noqa: E402
from ros2_tracker.models.build import build_network  # noqa: E402

FRAMES = 3
# The published ones take minutes of this test's machines.
NARROW = {
    "transinmo": {"depths": [1, 1, 1, 1], "width": 12, "neck_width": 32},
    "transinmo-star": {"depths": [1, 1, 1, 1], "width": 12, "neck_width": 32, "layers": 1},
    "cnninmo": {"depths": [1, 1, 1, 1], "width": 4, "neck_width": 32},
    "ibfp-r18": {"width": 8, "head_width": 16},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "clip" / "img"
    images.mkdir(parents=True)
    clip = SyntheticClip(300, 160, 120)
    for i in range(FRAMES):
        cv2.imwrite(str(images / f"{i + 1:04d}.png"), clip.render(i).image)
    box = ",".join(f"{v:.2f}" for v in clip.render(0).box.as_tuple())
    (images.parent / "groundtruth_rect.txt").write_text(f"{box}\n" * FRAMES)
    return images.parent


@pytest.fixture
def narrow_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The variants by their names, with few channels, and an empty folder for the user's weights."""
    made = tmp_path / "variants"
    shutil.copytree(variant.VARIANTS_DIR, made)
    for name, network in NARROW.items():
        settings = yaml.safe_load((made / f"{name}.yaml").read_text())
        settings["network"] |= network
        (made / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(variant, "VARIANTS_DIR", made)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.usefixtures("narrow_variants")
def test_a_variant_tracks_by_name(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = tmp_path / "boxes.csv"
    arguments = ["track", str(folder), "--model", name, "--json", "--results", str(results)]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert f"{name}.safetensors" in captured.err

    chosen = variant.load_variant(name)
    weights = variant.user_weights_dir() / f"{name}.safetensors"
    weights.parent.mkdir(parents=True)
    torch.manual_seed(1)
    save_file(build_network(chosen).state_dict(), weights)
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["model"], summary["frames"]) == (name, FRAMES)
    with results.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == FRAMES
    # Weights of no meaning: that it answers counts here; where, the tests of each loop say.
    assert all(0.0 <= float(row["reliability"]) <= 1.0 for row in rows)
