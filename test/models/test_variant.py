import pytest

from ros2_tracker.models import variant as module
from ros2_tracker.models.variant import WeightsMissingError, load_variant, variant_names


def test_families_of_the_interfaces_are_there():
    names = {"ostrack-b256", "ostrack-b384", "stark-s50", "stark-st50", "stark-st101", "stark-lightning"}
    names |= {"transinmo", "transinmo-star", "cnninmo"}
    assert names | {"multistage-tiny", "multistage-b", "ibfp-r18"} <= set(variant_names())


@pytest.mark.parametrize("name", variant_names())
def test_every_variant_loads(name):
    variant = load_variant(name)
    assert variant.name == name
    assert variant.graphs


def test_missing_weights_are_named_with_the_way_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    variant = load_variant("ostrack-b256")
    with pytest.raises(WeightsMissingError, match=r"nowhere\.safetensors does not exist"):
        variant.require_weights(tmp_path / "nowhere.safetensors")
    with pytest.raises(WeightsMissingError, match=r"ostrack-b256\.safetensors.*import-checkpoint"):
        variant.require_weights()
    assert not variant.has_weights
    mine = module.user_weights_dir() / "ostrack-b256.safetensors"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert variant.require_weights() == mine
    assert variant.has_weights


def test_missing_weights_of_our_own_readings_are_to_be_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    variant = load_variant("multistage-b")
    assert not variant.has_weights
    with pytest.raises(WeightsMissingError, match="our reading of the paper, no weights are published") as raised:
        variant.require_weights()
    assert "import-checkpoint" not in str(raised.value)


def test_wrong_field_is_named(tmp_path, monkeypatch):
    text = (module.VARIANTS_DIR / "stark-st50.yaml").read_text().replace("confidence:", "confidance:")
    (tmp_path / "broken.yaml").write_text(text)
    monkeypatch.setattr(module, "VARIANTS_DIR", tmp_path)
    with pytest.raises(ValueError, match=r"broken\.yaml.*confidance"):
        load_variant("broken")


def test_noise_of_motion_is_read_and_checked(tmp_path, monkeypatch):
    text = (module.VARIANTS_DIR / "stark-st50.yaml").read_text()
    monkeypatch.setattr(module, "VARIANTS_DIR", tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(text + "motion:\n  acceleration: 3\n")
    assert load_variant("own").motion == {"acceleration": 3.0}
    for wrong, message in (("speed: 3", "motion.speed is none of"), ("acceleration: 0", "motion.acceleration is 0")):
        file.write_text(f"{text}motion:\n  {wrong}\n")
        with pytest.raises(ValueError, match=message):
            load_variant("own")
