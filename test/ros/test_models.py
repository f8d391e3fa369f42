"""Models other than the default on the real node, chosen by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

import parity
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from scene import box_at, render

from ros2_tracker.models.variant import VARIANTS_DIR, load_variant, user_weights_dir

AT = (100, 90)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's weights folder, empty, for this process and the node's."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    user_weights_dir().mkdir(parents=True)
    return user_weights_dir()


def test_model_by_name_once_its_weights_are_there(start_node, folder: Path):
    torch = pytest.importorskip("torch", reason="the networks need torch")
    save_file = pytest.importorskip("safetensors.torch").save_file

    node = start_node({"model": "stark-lightning"}, active=False)
    engine = node.diagnosis("engine", lambda s: s.level == DiagnosticStatus.ERROR)
    weights = folder / "stark-lightning.safetensors"
    assert str(weights) in engine.message
    assert "import-checkpoint" in engine.message
    assert node.state() == State.PRIMARY_STATE_UNCONFIGURED

    entries = parity.synthetic_weights("stark_lightning", 51)
    save_file({name: torch.from_numpy(value.copy()) for name, value in entries.items()}, weights)
    assert node.change_state(Transition.TRANSITION_CONFIGURE)
    assert node.change_state(Transition.TRANSITION_ACTIVATE)
    node.wait_connected()
    engine = node.diagnosis("engine", lambda s: s.level == DiagnosticStatus.OK)
    assert "torch" in next(v.value for v in engine.values if v.key == "engine")
    node.start(render(AT), box_at(*AT), "car")
    for _ in range(3):
        # Weights of no meaning: that it answers counts here; where, test/tracking/test_published_loops.py says.
        status = node.follow(render(AT), "car")
        assert 0.0 <= status.reliability <= 1.0
        assert 0.0 < status.score <= 1.0


def answers(start_node, folder: Path, name: str, settings: Mapping[str, object]) -> None:
    """With weights of no meaning, of the variant with these settings of its network."""
    torch = pytest.importorskip("torch", reason="the networks need torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    from ros2_tracker.models.build import build_network

    torch.manual_seed(1)
    chosen = load_variant(name)
    chosen = replace(chosen, network={**chosen.network, **settings})
    save_file(build_network(chosen).state_dict(), folder / f"{name}.safetensors")
    node = start_node({"model": name})
    engine = node.diagnosis("engine", lambda s: s.level == DiagnosticStatus.OK)
    assert next(v.value for v in engine.values if v.key == "model") == name
    node.start(render(AT), box_at(*AT), "car")
    for _ in range(2):
        status = node.follow(render(AT), "car")
        assert 0.0 <= status.reliability <= 1.0
        assert 0.0 <= status.score <= 1.0


@pytest.mark.parametrize("name", ["transinmo", "ibfp-r18"])
def test_models_with_a_template_graph(start_node, folder: Path, name: str):
    """IBFP's first frame is twenty templates and a branch that is fitted to them: the node answers late, but does."""
    answers(start_node, folder, name, {})


NARROW = {
    "transinmo-star": {"depths": [1, 1, 1, 1], "width": 12, "neck_width": 32, "layers": 1},
    "cnninmo": {"depths": [1, 1, 1, 1], "width": 4, "neck_width": 32},
}


@pytest.mark.parametrize("name", NARROW)
def test_large_models_with_few_channels(
    start_node, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Full-size, a start takes minutes of a slow machine; what the node sees of them is the same."""
    variants = tmp_path / "variants"
    shutil.copytree(VARIANTS_DIR, variants)
    settings = yaml.safe_load((variants / f"{name}.yaml").read_text())
    settings["network"] |= NARROW[name]
    (variants / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    # Python runs this file first in every process that has its folder on the path: here the node's.
    (tmp_path / "sitecustomize.py").write_text(
        "from pathlib import Path\n"
        "from ros2_tracker.models import variant\n"
        f"variant.VARIANTS_DIR = Path({str(variants)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    answers(start_node, folder, name, NARROW[name])
