"""Runs: what is learnt, what is skipped and counted, what is refused, what is written."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import narrow
import numpy as np
import pytest
from rendered_packs import write_pack

torch = pytest.importorskip("torch", reason="training needs torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from ros2_tracker.models import build, variant  # noqa: E402
from ros2_tracker.training import throughput  # noqa: E402
from ros2_tracker.training.config import from_dict  # noqa: E402
from ros2_tracker.training.loop import TrainingError, train  # noqa: E402


@pytest.fixture(autouse=True)
def narrow_variant(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(variant, "VARIANTS_DIR", variant.VARIANTS_DIR)
    monkeypatch.setattr(build, "FAMILIES", dict(build.FAMILIES))
    narrow.register(tmp_path_factory.mktemp("variants"))


@pytest.fixture
def settings(packs, tmp_path):
    """Plain values of a short run."""
    return {
        "model": "narrow",
        "output": str(tmp_path / "run"),
        "device": "cpu",
        "optimizer": {"steps": 6, "batch": 4, "warmup_steps": 2, "learning_rate": 3e-3, "ema_decay": 0.8},
        "validation": {"every": 0},
        "data": {"folder": str(packs), "hold_out_share": 0.0, "workers": 0},
        "log_every": 2,
    }


def trained(settings, resume=False, **changes):
    """Outcome, and what was said."""
    said = []
    outcome = train(from_dict(settings | changes), resume, said.append)
    return outcome, said


def rows(folder):
    with (Path(folder) / "curves.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_writes_curves_weights_and_its_config(settings):
    outcome, said = trained(
        settings, validation={"every": 4, "pairs": 6}, data=settings["data"] | {"hold_out_share": 0.3}
    )
    assert outcome.stopped_by is None
    assert outcome.progress.step == 6
    table = rows(settings["output"])
    assert [row["step"] for row in table] == ["2", "4", "6"]
    assert [row["mean_iou"] != "" for row in table] == [False, True, True]
    for row in table:
        parts = [float(row[name]) for name in ("score", "giou", "l1")]
        assert float(row["total"]) == pytest.approx(sum(parts), rel=1e-4)
        assert float(row["images_per_second"]) > 0
    assert 0.0 <= outcome.progress.mean_iou <= 1.0
    with safe_open(outcome.weights, "pt") as opened:
        assert opened.metadata()["variant"] == "narrow"
        assert opened.metadata()["steps"] == "6"
        assert len(opened.metadata()["config"]) == 64
    network = build.load_network(variant.load_variant("narrow"), outcome.weights)
    assert not network.training
    assert (Path(settings["output"]) / "config.yaml").read_text().startswith("model: narrow")
    assert "parameters learn from" in said[-1]
    assert "without looking: 0." in said[-2]


def test_it_learns(settings):
    """Loss falls, and held-out pairs are found better than at random."""
    run = {"steps": 50, "batch": 8, "warmup_steps": 5, "learning_rate": 5e-3, "ema_decay": 0.9}
    augment = {
        "shift": 0.4,
        "scale": 0.1,
        "colour": 0.0,
        "blur": 0.0,
        "distractor": 0.0,
        "occluder": 0.0,
        "cutout": 0.0,
    }
    trained(settings, optimizer=run, augment=augment, sampling={"negatives": 0.0}, log_every=10)
    totals = [float(row["total"]) for row in rows(settings["output"])]
    assert totals[-1] < 0.6 * totals[0]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(settings, tmp_path):
    weights = []
    for i, (seed, workers) in enumerate([(1, 0), (1, 2), (2, 0)]):
        data = settings["data"] | {"workers": workers, "cache": "memory" if workers else "none"}
        outcome, _ = trained(settings, seed=seed, data=data, output=str(tmp_path / str(i)))
        weights.append(load_file(outcome.weights))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_steps_without_a_finite_loss_are_skipped_counted_and_named(settings):
    outcome, said = trained(settings, network={"nan_calls": [2, 4]})
    assert outcome.progress.skipped_steps == 2
    assert outcome.progress.bad_in_a_row == 0
    assert [row["skipped_steps"] for row in rows(settings["output"])] == ["0", "2", "2"]
    complaints = [text for text in said if "not finite" in text]
    assert len(complaints) == 2
    assert complaints[0].startswith("step 2: ")
    assert "samples 8..11" in complaints[0]
    assert "track" in complaints[0]
    values = load_file(outcome.weights)
    checkpoint = load_file(outcome.weights.with_name("checkpoint.safetensors"))
    for name, value in (values | checkpoint).items():
        assert torch.isfinite(value).all(), name


def test_too_many_of_them_in_a_row_stop_the_run(settings):
    with pytest.raises(TrainingError, match=r"stopped after 3 such steps in a row: step 3.*samples 12\.\.15"):
        trained(settings, network={"nan_calls": [1, 100]}, bad_steps=3)


def test_unreadable_crops_are_replaced_counted_and_named(settings, tmp_path, rendered):
    crops = list(rendered["video"])
    for i in range(0, len(crops), 3):
        track, jpeg, box = crops[i]
        crops[i] = (track, jpeg[:2] + bytes(len(jpeg) - 4) + jpeg[-2:], box)
    write_pack(tmp_path, "video", crops)
    counts = []
    for cache in ("none", "memory"):
        data = settings["data"] | {"folder": str(tmp_path), "cache": cache}
        outcome, _ = trained(settings, data=data, output=str(tmp_path / cache))
        assert outcome.progress.skipped_crops > 0
        assert outcome.unreadable
        assert all("cannot be decoded" in text and "entry" in text for text in outcome.unreadable)
        counts.append(outcome.progress.skipped_crops)
    assert counts[0] == counts[1]


def test_missing_images_of_a_folder_are_replaced_too(settings, tmp_path):
    """GOT-10k with an image that is no image any more, and a box outside its image."""
    home = tmp_path / "GOT-10k_Train_000001"
    home.mkdir()
    image = np.full((120, 160, 3), 90, np.uint8)
    for i in range(6):
        cv2.imwrite(str(home / f"{i + 1:08d}.jpg"), image)
    (home / "00000003.jpg").write_bytes(b"")
    (home / "groundtruth.txt").write_text("60,40,24,30\n" * 4 + "500,40,24,30\n" + "60,40,24,30\n")
    data = settings["data"] | {"folder": str(tmp_path), "sources": [{"format": "got10k"}]}
    outcome, _ = trained(settings, data=data, sampling={"negatives": 0.0})
    assert outcome.progress.step == 6
    assert outcome.progress.skipped_crops > 0
    assert any("00000003.jpg: cannot be read as an image" in text for text in outcome.unreadable)
    assert any("lies outside its image" in text for text in outcome.unreadable)


def test_data_of_which_nothing_can_be_read_stop_the_run(settings, tmp_path, rendered):
    crops = [(track, jpeg[:2] + bytes(len(jpeg) - 4) + jpeg[-2:], box) for track, jpeg, box in rendered["video"]]
    write_pack(tmp_path, "video", crops)
    with pytest.raises(ValueError, match=r"draws in a row .* could not be read: .*video\.bin: entry"):
        trained(settings, data=settings["data"] | {"folder": str(tmp_path)})


def test_unused_samples_are_counted(settings):
    outcome, _ = trained(settings, augment={"shift": 3.0}, optimizer=settings["optimizer"] | {"batch": 16, "steps": 2})
    assert outcome.progress.unused_samples > 0


def test_a_finished_run_is_not_overwritten_and_goes_on_to_nothing(settings):
    first, _ = trained(settings)
    before = load_file(first.weights)
    with pytest.raises(ValueError, match="holds a run already"):
        trained(settings)
    again, _ = trained(settings, resume=True)
    assert again.progress.step == 6
    after = load_file(again.weights)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [row["step"] for row in rows(settings["output"])] == ["2", "4", "6"]


def test_a_run_goes_on_only_as_it_was(settings, tmp_path, rendered):
    trained(settings)
    with pytest.raises(ValueError, match=r"optimizer\.batch was 4, is 8"):
        trained(settings, resume=True, optimizer=settings["optimizer"] | {"batch": 8})
    write_pack(tmp_path, "video", rendered["video"])
    with pytest.raises(ValueError, match="other crops than before"):
        trained(settings, resume=True, data=settings["data"] | {"folder": str(tmp_path)})
    again, _ = trained(settings, resume=True, log_every=3, checkpoint_seconds=1.0)
    assert again.progress.step == 6


def test_a_broken_checkpoint_is_named(settings):
    outcome, _ = trained(settings)
    file = outcome.weights.with_name("checkpoint.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: the checkpoint cannot be read"):
        trained(settings, resume=True)
    file.write_bytes(outcome.weights.read_bytes())
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        trained(settings, resume=True)


def test_init_from_takes_what_fits_and_lists_the_rest(settings, tmp_path):
    outcome, _ = trained(settings)
    entries = load_file(outcome.weights)
    entries["backbone.patch_embed.proj.weight"] = torch.full_like(entries["backbone.patch_embed.proj.weight"], 0.25)
    entries["stranger"] = torch.zeros(3)
    entries["box_head.conv5_ctr.bias"] = torch.zeros(7)
    save_file(entries, tmp_path / "start.safetensors")
    run = settings["optimizer"] | {"learning_rate": 0.0, "ema_decay": 0.0}
    warm, said = trained(
        settings, init_from=str(tmp_path / "start.safetensors"), optimizer=run, output=str(tmp_path / "warm")
    )
    assert torch.equal(
        load_file(warm.weights)["backbone.patch_embed.proj.weight"], entries["backbone.patch_embed.proj.weight"]
    )
    told = "\n".join(said)
    assert "start at random: box_head.conv5_ctr.bias" in told
    assert "not used: " in told
    assert "stranger" in told.partition("not used: ")[2]
    save_file({"stranger": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no entry of"):
        trained(settings, init_from=str(tmp_path / "other.safetensors"), output=str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation": {"every": 1}}, "no track is held out"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"objective": "stark-box"}, "does not fit a Narrow"),
        ({"model": "unheard-of"}, "unknown model"),
        ({"network": {"wdith": 8}}, "wdith"),
    ],
)
def test_what_does_not_fit_is_refused(settings, changes, said):
    with pytest.raises(ValueError, match=said):
        trained(settings, **changes)
    assert not (Path(settings["output"]) / "checkpoint.safetensors").exists()


def test_bf16_trains_on_the_cpu_too(settings):
    outcome, said = trained(settings, precision="bf16")
    assert "bf16" in said[-1]
    assert outcome.progress.skipped_steps == 0
    assert all(value.dtype != torch.bfloat16 for value in load_file(outcome.weights).values())


def test_two_processes_share_a_run(settings, tmp_path):
    """torchrun with gloo: both see their own half of each batch, and one set of files comes out."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings | {"optimizer": settings["optimizer"] | {"steps": 3}}))
    folder = tmp_path / "variants"
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [narrow.__file__, str(folder), "train", str(config)]
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    assert [row["step"] for row in rows(settings["output"])] == ["2", "3"]
    assert all(np.isfinite(float(row["total"])) for row in rows(settings["output"]))
    assert child.stdout.count("done after 3 of 3 steps") == 1


def test_throughput_of_a_run(settings):
    measured = throughput.measure(from_dict(settings), rounds=3)
    assert min(measured) > 0
    assert "made / consumed" in measured.as_text()
    assert not Path(settings["output"]).exists()
