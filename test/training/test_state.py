"""Files that survive a kill: written whole or not at all; curves cut back to the checkpoint."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from ros2_tracker.training.curves import Curves  # noqa: E402
from ros2_tracker.training.state import Progress, load_checkpoint, restore, save_checkpoint, write_tensors  # noqa: E402


def stepped(seed):
    torch.manual_seed(seed)
    network, average = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)) for _ in range(2))
    network.to(memory_format=torch.channels_last)
    names = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(names.values(), lr=0.1)
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    return network, average, optimizer, names


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    first = stepped(1)
    progress = Progress(step=7, seconds=1 / 3, window={"score": 0.1}, window_steps=2, mean_iou=2 / 3)
    save_checkpoint(tmp_path, *first, progress, {"data": "abc"})
    second = stepped(2)
    tensors, came_back, identity = load_checkpoint(tmp_path)
    restore(tensors, *second)
    assert came_back == progress
    assert identity == {"data": "abc"}
    for a, b in zip(first[:2], second[:2], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    for name, parameter in first[3].items():
        mine, theirs = second[2].state[second[3][name]], first[2].state[parameter]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    # The next step is the same one, too.
    for network, _, optimizer, _ in (first, second):
        optimizer.zero_grad()
        network(torch.ones(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    assert torch.equal(first[0][0].weight, second[0][0].weight)


def test_an_unfinished_file_is_never_in_the_place_of_a_whole_one(tmp_path):
    file = tmp_path / "w.safetensors"
    write_tensors(file, {"a": torch.ones(3)}, {"kind": "x"})
    (tmp_path / ".w.safetensors.part").write_bytes(b"half")  # a kill while writing
    assert load_file(file)["a"].tolist() == [1, 1, 1]
    write_tensors(file, {"a": torch.zeros(3)}, {"kind": "x"})
    assert load_file(file)["a"].tolist() == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_curves_drop_rows_after_the_checkpoint_and_a_torn_one(tmp_path):
    file = tmp_path / "curves.csv"
    curves = Curves(file, ["step", "loss"], 0)
    for step in (2, 4, 6, 8):
        curves.add([step, 1 / step])
    curves.close()
    with file.open("a") as stream:
        stream.write("1")  # a kill in the middle of a row
    curves = Curves(file, ["step", "loss"], 5)
    curves.add([6, 0.5])
    curves.close()
    assert file.read_text().split() == ["step,loss", "2,0.5", "4,0.25", "6,0.5"]
    Curves(file, ["step", "loss"], 0).close()
    assert file.read_text().split() == ["step,loss"]
    with pytest.raises(ValueError, match="has columns step,loss"):
        Curves(file, ["step", "other"], 3)
