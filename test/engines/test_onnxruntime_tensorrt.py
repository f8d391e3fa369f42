"""TensorRT inside ONNX Runtime, as far as a machine without a GPU shows it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from ros2_tracker.engines import load
from ros2_tracker.engines.base import EngineError
from ros2_tracker.engines.cache import EngineCache
from ros2_tracker.engines.load import EngineSettings, list_options
from ros2_tracker.engines.onnxruntime import OnnxRuntimeEngine, tensorrt_options
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant

GRAPH = WEIGHTS_DIR / "onestream-192.onnx"


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that looks as if it had a GPU and the build of ONNX Runtime for it."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(load, "_GPU_FILES", (str(tmp_path / "nvidia0"),))
    both = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)


@pytest.mark.usefixtures("gpu_build")
def test_only_when_it_is_named():
    variant = load_variant("onestream-192")
    (option,) = list_options(variant, EngineSettings("onnxruntime-tensorrt"))
    assert (option.gpu, option.file, option.precision, option.missing) == (True, GRAPH, "fp32", "")
    assert all(o.engine != "onnxruntime-tensorrt" for o in list_options(variant, EngineSettings()))
    assert all(o.engine != "onnxruntime-tensorrt" for o in list_options(variant, EngineSettings(device="cuda")))


def test_engines_lie_in_a_private_folder_of_their_own(tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    options = tensorrt_options(GRAPH, "fp16", cache)
    folder = Path(options["trt_engine_cache_path"])
    assert folder.parent == cache.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert options["trt_fp16_enable"] is True
    assert tensorrt_options(GRAPH, "fp32", cache)["trt_fp16_enable"] is False
    other = WEIGHTS_DIR / "onestream-192.int8.onnx"
    assert tensorrt_options(other, "fp32", cache)["trt_engine_cache_path"] != str(folder)


def test_folder_that_others_can_write_to_is_refused(tmp_path: Path):
    cache = EngineCache(tmp_path / "engines")
    folder = cache.own_folder("a")
    folder.chmod(0o777)
    with pytest.raises(EngineError, match="others can write"):
        cache.own_folder("a")
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match="no folder"):
        cache.own_folder("a")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="for builds without CUDA")
def test_build_without_it_is_refused():
    with pytest.raises(EngineError, match="cannot use GPU 0"):
        OnnxRuntimeEngine(GRAPH, gpu=0, tensorrt={})
