import hashlib
import os
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are read with torch")
safetensors = pytest.importorskip("safetensors", reason="weights are kept as safetensors")

from ros2_tracker.models.build import build_network, load_network  # noqa: E402
from ros2_tracker.models.checkpoint import CheckpointError, import_checkpoint, read_weights  # noqa: E402
from ros2_tracker.models.variant import WeightsMissingError, load_variant  # noqa: E402

MODEL = "stark-lightning"
FORMATS = {"zip": True, "legacy": False}


@pytest.fixture
def foreign(monkeypatch):
    """Classes as the official training code has them, importable only while a container is built."""
    made = {}

    def make(path, bases=()):
        module_name, name = path.rsplit(".", 1)
        parts = module_name.split(".")
        for i in range(len(parts)):
            package = ".".join(parts[: i + 1])
            if package not in sys.modules:
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        made[path] = type(name, bases, {"__module__": module_name})
        setattr(sys.modules[module_name], name, made[path])
        return made[path]

    return make


def state_dict(model=MODEL):
    torch.manual_seed(3)
    return OrderedDict(
        (name, torch.randn(v.shape) if v.is_floating_point() else torch.tensor(7))
        for name, v in build_network(load_variant(model), empty=True).state_dict().items()
    )


def container(weights, foreign):
    """All that an official checkpoint holds beside the weights."""
    settings = foreign("lib.train.admin.settings.Settings")()
    settings.env = foreign("lib.train.admin.local.EnvironmentSettings")()
    settings.device = torch.device("cpu")
    settings.best = np.float64(0.5)
    settings.config = foreign("easydict.EasyDict", (dict,))(lr=1e-4, nested={"a": [1, 2]})
    meter, value = foreign("lib.train.admin.stats.AverageMeter")(), foreign("lib.train.admin.stats.StatValue")()
    meter.avg, value.history = 0.25, [0.1, 0.2]
    return {
        "epoch": 300,
        "actor_type": "OSTrackActor",
        "net_type": "OSTrack",
        "net": weights,
        "net_info": None,
        "constructor": None,
        "optimizer": {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "stats": OrderedDict(train=OrderedDict(loss=meter, lr=value)),
        "settings": settings,
    }


def save(content, path, kind):
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[kind])


def forget_foreign():
    for name in [n for n in sys.modules if n.split(".")[0] in ("lib", "easydict")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", FORMATS)
def test_official_container_becomes_safetensors(kind, tmp_path, foreign):
    weights = state_dict()
    source, output = tmp_path / "STARKLightningXtrt_ep0500.pth.tar", tmp_path / "deep" / "out.safetensors"
    save(container(weights, foreign), source, kind)
    forget_foreign()
    with pytest.raises(Exception, match=r"lib\.train\.admin"):
        torch.load(source, weights_only=True)

    report = import_checkpoint(source, MODEL, output)
    assert (report.variant, report.entries, report.unused) == (MODEL, len(weights), ())
    assert report.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    with safetensors.safe_open(output, "pt") as file:
        assert file.metadata() == {"variant": MODEL, "sha256": report.sha256}
        assert set(file.keys()) == set(weights)
        for name, value in weights.items():
            assert torch.equal(file.get_tensor(name), value)
    assert os.listdir(output.parent) == ["out.safetensors"]
    assert "lib" not in sys.modules


def test_imported_weights_run(tmp_path):
    weights, output = state_dict(), tmp_path / "o.safetensors"
    save({"net": weights}, tmp_path / "c.pth", "zip")
    import_checkpoint(tmp_path / "c.pth", MODEL, output)
    variant = load_variant(MODEL)
    network = load_network(variant, output)
    assert not network.training
    assert all(torch.equal(network.state_dict()[name], value) for name, value in weights.items())
    features = network.template(torch.zeros(1, 3, 128, 128), torch.zeros(1, 128, 128, dtype=torch.bool))
    assert features.tokens.shape == (1, 64, 128)
    with pytest.raises(ValueError, match=r"stark-s50.*o\.safetensors.*conv1\.weight is missing.*more"):
        load_network(load_variant("stark-s50"), output)
    output.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"o\.safetensors"):
        load_network(variant, output)
    output.unlink()
    with pytest.raises(WeightsMissingError, match="does not exist"):
        load_network(variant, output)


def test_bare_weights_are_taken(tmp_path):
    save(state_dict(), tmp_path / "bare.pth", "zip")
    assert import_checkpoint(tmp_path / "bare.pth", MODEL, tmp_path / "o.safetensors").entries == len(state_dict())


def test_entries_that_nobody_needs_are_dropped(tmp_path, monkeypatch):
    from ros2_tracker.models import checkpoint
    from ros2_tracker.models.ostrack import OSTrack, OSTrackSettings

    # The official sizes of these two entries in a network small enough for a test.
    monkeypatch.setattr(checkpoint, "build_network", lambda variant, empty: OSTrack(OSTrackSettings(width=24, heads=2)))
    weights = OSTrack(OSTrackSettings(width=24, heads=2)).state_dict()
    unused = {"backbone.cls_token": torch.zeros(1, 1, 768), "backbone.pos_embed": torch.zeros(1, 197, 768)}
    save({"net": {**weights, **unused}}, tmp_path / "o.pth", "zip")
    report = import_checkpoint(tmp_path / "o.pth", "ostrack-b256", tmp_path / "o.safetensors")
    assert report.unused == tuple(unused)
    assert report.entries == len(weights)


def test_counter_of_a_frozen_norm_is_dropped(tmp_path):
    weights = {**state_dict(), "backbone.body.stage0.rbr_dense.bn.num_batches_tracked": torch.tensor(5)}
    save({"net": weights}, tmp_path / "c.pth", "zip")
    report = import_checkpoint(tmp_path / "c.pth", MODEL, tmp_path / "o.safetensors")
    assert report.unused == ("backbone.body.stage0.rbr_dense.bn.num_batches_tracked",)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_unknown_global_is_named(kind, tmp_path, foreign):
    content = container(state_dict(), foreign)
    content["extra"] = [foreign("lib.models.surprise.Surprise")(), foreign("lib.models.other.Other")()]
    save(content, tmp_path / "c.pth", kind)
    forget_foreign()
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(tmp_path / "c.pth", MODEL, tmp_path / "o.safetensors")
    assert len(caught.value.problems) == 2
    assert "lib.models.surprise.Surprise" in caught.value.problems[0]
    assert "lib.models.other.Other" in caught.value.problems[1]
    assert not (tmp_path / "o.safetensors").exists()


class Malicious:
    """Runs `call` when it is unpickled without restraint."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("call", "named"), [(os.mkdir, "mkdir"), (eval, "eval"), (exec, "exec"), (os.system, "system")]
)
def test_malicious_pickle_is_refused_and_not_executed(kind, call, named, tmp_path):
    marker = tmp_path / "executed"
    argument = {
        "mkdir": str(marker),
        "system": f"mkdir {marker}",
    }.get(named, f"__import__('os').mkdir({str(marker)!r})")
    save({"net": state_dict(), "settings": Malicious(call, argument)}, tmp_path / "c.pth", kind)
    with pytest.raises(CheckpointError, match=named):
        import_checkpoint(tmp_path / "c.pth", MODEL, tmp_path / "o.safetensors")
    assert not marker.exists()
    assert not (tmp_path / "o.safetensors").exists()


def test_malicious_weights_are_refused(tmp_path):
    marker = tmp_path / "executed"
    save({"net": {"a.weight": Malicious(os.mkdir, str(marker))}}, tmp_path / "c.pth", "zip")
    with pytest.raises(CheckpointError, match="mkdir"):
        read_weights(tmp_path / "c.pth")
    assert not marker.exists()


def test_each_entry_that_does_not_fit_is_named(tmp_path):
    weights = state_dict()
    del weights["bottleneck.bias"]
    weights["bottleneck.weight"] = torch.zeros(128, 96, 1, 1)
    weights["head.extra"] = torch.zeros(2)
    save({"net": weights}, tmp_path / "c.pth", "zip")
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(tmp_path / "c.pth", MODEL, tmp_path / "o.safetensors")
    assert caught.value.problems == (
        "entry bottleneck.bias is missing",
        "entry head.extra is not expected",
        "entry bottleneck.weight has shape (128, 96, 1, 1) instead of (128, 192, 1, 1)",
    )


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"PK\x03\x04 torn"])
def test_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pth"):
        import_checkpoint(tmp_path / "c.pth", MODEL, tmp_path / "o.safetensors")


@pytest.mark.parametrize("kind", FORMATS)
def test_torn_container_is_refused(kind, tmp_path):
    save({"net": state_dict()}, tmp_path / "c.pth", kind)
    whole = (tmp_path / "c.pth").read_bytes()
    for keep in (0.3, 0.9):
        (tmp_path / "c.pth").write_bytes(whole[: int(len(whole) * keep)])
        with pytest.raises(CheckpointError):
            import_checkpoint(tmp_path / "c.pth", MODEL, tmp_path / "o.safetensors")


@pytest.mark.parametrize("content", [{"net": {}}, {"net": [1]}, [1, 2], {"net": {"a": 3}}, 5])
def test_container_without_weights_is_refused(content, tmp_path):
    save(content, tmp_path / "c.pth", "zip")
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "c.pth")


def test_missing_file_and_unknown_model(tmp_path):
    with pytest.raises(FileNotFoundError):
        import_checkpoint(tmp_path / "nowhere.pth", MODEL, tmp_path / "o.safetensors")
    with pytest.raises(ValueError, match="ostrack-b512"):
        import_checkpoint(tmp_path / "nowhere.pth", "ostrack-b512", tmp_path / "o.safetensors")
