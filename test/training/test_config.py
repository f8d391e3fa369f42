"""Configs: what is read from YAML, and errors that name the key and the value."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch")

from ros2_tracker.training.config import ConfigError, from_dict, load_config

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model": "multistage-tiny", "output": "runs/x"}


def test_values_take_their_places_and_the_rest_has_defaults():
    config = from_dict(
        SMALL
        | {
            "optimizer": {"learning_rate": "1e-3", "steps": 5, "rate_factors": {"backbone.": 0.1}},
            "data": {"sources": [{"path": "a", "only": ["x", "y"]}], "source_weights": {"x": 2}},
            "network": {"drop_path": 0.1, "depths": [1, 1, 6]},
        }
    )
    assert config.optimizer.learning_rate == 1e-3
    assert config.optimizer.rate_factors == {"backbone.": 0.1}
    assert config.data.sources[0].only == ("x", "y")
    assert config.data.source_weights == {"x": 2.0}
    assert config.network["depths"] == [1, 1, 6]
    assert config.sampling.max_gap == 100
    assert config.seed == 0
    assert from_dict(config.as_dict()) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stpes": 3}, "unknown key 'stpes'"),
        ({"optimizer": {"lr": 3}}, "optimizer: unknown key 'lr'; known: steps, batch"),
        ({"optimizer": {"steps": 2.5}}, "optimizer: steps is 2.5, must be a whole number"),
        ({"optimizer": {"steps": True}}, "steps is True, must be a whole number"),
        ({"optimizer": {"steps": 0}}, "steps is 0, must be within 1"),
        ({"optimizer": {"learning_rate": "fast"}}, "learning_rate is 'fast', must be a number"),
        ({"optimizer": {"learning_rate": float("nan")}}, "learning_rate is nan, must be finite"),
        ({"optimizer": 3}, "optimizer: expected keys and values, got 3"),
        ({"sampling": {"negatives": 2}}, "sampling: negatives is 2.0, must be within 0 and 1"),
        ({"augment": {"flip": -1}}, "augment: flip is -1.0"),
        ({"loss": {"sigma": 9}}, "loss: sigma is 9.0"),
        ({"data": {"cache": "disk"}}, "cache is 'disk', must be one of none, memory, device"),
        ({"data": {"sources": "packs"}}, "sources is 'packs', must be a list"),
        ({"data": {"sources": [{"format": "zip"}]}}, r"sources\[0\]: format is 'zip'"),
        ({"data": {"source_weights": {"x": "much"}}}, "source_weights.x is 'much', must be a number"),
        ({"objective": "both"}, "objective is 'both'"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"model": 3}, "model is 3, must be text"),
        ({"deterministic": "yes"}, "deterministic is 'yes', must be true or false"),
        ({"validation": {"pairs": 0}}, "validation: pairs is 0"),
    ],
)
def test_what_is_wrong_is_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        from_dict(SMALL | changes)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="output is missing"):
        from_dict({"model": "x"})
    with pytest.raises(ConfigError, match="expected keys and values, got None"):
        from_dict(None)


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "model: m\noutput: runs/m\ninit_from: ../w.safetensors\ndata: {folder: ../packs}\n"
    )
    config = load_config(tmp_path / "c.yaml")
    assert Path(config.data.folder) == tmp_path / ".." / "packs"
    assert Path(config.init_from) == tmp_path / ".." / "w.safetensors"
    assert config.output == "runs/m"
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read"):
        load_config(tmp_path / "nothing.yaml")
    (tmp_path / "c.yaml").write_text("model: [")
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read"):
        load_config(tmp_path / "c.yaml")


def test_only_what_changes_what_is_learnt_is_a_difference():
    config = from_dict(SMALL)
    moved = from_dict(SMALL | {"output": "elsewhere", "log_every": 7, "data": {"workers": 9, "folder": "x"}})
    assert moved.differences(config.as_dict()) == []
    assert moved.digest() == config.digest()
    other = from_dict(SMALL | {"seed": 1, "network": {"drop_path": 0.2}})
    assert other.differences(config.as_dict()) == [
        "network.drop_path was None, is 0.2",
        "seed was 0, is 1",
    ]
    assert other.digest() != config.digest()


@pytest.mark.parametrize("file", sorted((ROOT / "config" / "training").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_configs_of_the_project_are_valid(file):
    from ros2_tracker.models.variant import load_variant

    config = load_config(file)
    assert load_variant(config.model).name == config.model
    assert "/" not in config.output.split("/")[0]
