"""Official InMo checkpoints (SPEC 3.8), made of the fixtures' weights under the names that the authors' code gives."""

import parity
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are read with torch")
safetensors = pytest.importorskip("safetensors", reason="weights are kept as safetensors")

from inmo_weights import official_weights  # noqa: E402

from ros2_tracker.models.build import build_network, load_network  # noqa: E402
from ros2_tracker.models.checkpoint import CheckpointError, import_checkpoint, read_weights  # noqa: E402
from ros2_tracker.models.inmo_swin import relative_index  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402


@pytest.fixture(scope="module")
def weights():
    """Of TransInMo*, with all 320 entries."""
    made = {name: torch.from_numpy(value) for name, value in official_weights("transinmo_star", 1).items()}
    entries, _ = parity.official("transinmo_star")
    return made | {name: relative_index() for name in entries if name not in made}


@pytest.mark.parametrize("wrapped", [False, True])
def test_official_checkpoint_becomes_safetensors(weights, wrapped, tmp_path):
    named = {f"module.{name}": value for name, value in weights.items()} if wrapped else weights
    content = {"epoch": 300, "state_dict": named} if wrapped else named
    torch.save(content, tmp_path / "TransInMo.pth")
    report = import_checkpoint(tmp_path / "TransInMo.pth", "transinmo-star", tmp_path / "out.safetensors")
    assert (report.entries, report.unused) == (320, ())
    network = load_network(load_variant("transinmo-star"), tmp_path / "out.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_entries_of_the_tracker_are_renamed(tmp_path):
    """CNNInMo's, without the memory of 150 million numbers."""
    expected = build_network(load_variant("cnninmo"), empty=True).state_dict()
    named = {
        f"module.{name.replace('backbone.', 'features.features.', 1)}": torch.zeros(()).expand(value.shape)
        for name, value in expected.items()
    }
    torch.save({"state_dict": named}, tmp_path / "CNNInMo.pth")
    found = read_weights(tmp_path / "CNNInMo.pth")
    assert len(found) == 440
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in expected.items()}


def test_what_does_not_fit_is_named(weights, tmp_path):
    rest = dict(weights)
    rest["head.class_embed.layers.3.weight"] = rest.pop("neck.decoder.norm.bias")
    torch.save({"state_dict": rest}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as raised:
        import_checkpoint(tmp_path / "other.pth", "transinmo-star", tmp_path / "out.safetensors")
    assert raised.value.problems == (
        "entry neck.decoder.norm.bias is missing",
        "entry head.class_embed.layers.3.weight is not expected",
    )
    assert not (tmp_path / "out.safetensors").exists()


def test_only_transinmo_has_to_be_trained():
    assert "import-checkpoint" in load_variant("transinmo-star").how_to_get_weights()
    assert "import-checkpoint" in load_variant("cnninmo").how_to_get_weights()
    assert "train one" in load_variant("transinmo").how_to_get_weights()
