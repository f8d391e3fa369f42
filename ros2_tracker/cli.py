"""The command line, `ros2-tracker`: arguments, exit status, and which module does the work."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from ros2_tracker.engines.load import EngineSettings
    from ros2_tracker.tracking.settings import TargetSettings

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
_DEFAULT_FPS = 30.0


class UsageError(Exception):
    """The command cannot mean anything as it was given."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, 1 for a failure, 2 for a usage error, 130 for Ctrl-C."""
    from ros2_tracker.engines.base import EngineError

    _silence_opencv()
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:
        return int(end.code or 0)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except UsageError as error:
        return _fail(arguments.verb, error, EXIT_USAGE)
    except (ValueError, OSError, EngineError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has gone; the interpreter must not complain about it on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILURE
        return _fail(arguments.verb, error, EXIT_FAILURE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _silence_opencv() -> None:
    """OpenCV and FFmpeg would print lines of their own about files that we report on ourselves."""
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if hasattr(cv2, "utils") and hasattr(cv2.utils, "logging"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _fail(verb: str, error: Exception, status: int) -> int:
    print(f"ros2-tracker {verb}: {' '.join(str(error).split())}", file=sys.stderr)
    return status


# -- verbs ------------------------------------------------------------------------------------------------------------


def _track(arguments: argparse.Namespace) -> int:
    from ros2_tracker.evaluation.sequences import open_frames
    from ros2_tracker.evaluation.track import track_sequence
    from ros2_tracker.tracking.geometry import BoxError
    from ros2_tracker.tracking.network import TrackingNetwork
    from ros2_tracker.tracking.tracker import Tracker

    _check_model(arguments.model)
    source = open_frames(arguments.source)
    box = arguments.init
    if box is None:
        if source.ground_truth is None or not all(math.isfinite(v) for v in source.ground_truth[0]):
            raise UsageError(f"{arguments.source} does not say where the target is in its first frame: give --init")
        box = tuple(float(v) for v in source.ground_truth[0])
    fps = arguments.fps or source.fps or _DEFAULT_FPS
    settings = _target_settings(arguments)
    tracker = Tracker(TrackingNetwork.load(arguments.model, _engine_settings(arguments)), settings)
    try:
        summary = track_sequence(tracker, source, box, fps, arguments.results, arguments.output)
    except BoxError as error:
        raise UsageError(f"--init: {error}" if arguments.init else f"first true box: {error}") from error
    if summary.frames < summary.expected_frames:
        announced = f"{summary.expected_frames} frames announced, {summary.frames} could be read"
        print(f"ros2-tracker track: {arguments.source}: {announced}", file=sys.stderr)
    print(json.dumps(summary.as_dict()) if arguments.json else summary.as_text())
    return EXIT_OK


def _models(arguments: argparse.Namespace) -> int:
    from ros2_tracker.models.variant import DEFAULT, load_variant, variant_names

    variants = [load_variant(name) for name in variant_names()]
    if arguments.json:
        rows = [
            {
                "name": v.name,
                "default": v.name == DEFAULT,
                "family": v.family,
                "description": v.description,
                "parameters": v.parameters,
                "gmacs": v.gmacs,
                "template": v.template.size,
                "search": v.search.size,
                "weights": v.has_weights,
            }
            for v in variants
        ]
        print(json.dumps(rows))
        return EXIT_OK
    width = max(len(v.name) for v in variants) + len(" (default)")
    print(f"{'name':<{width}}  {'family':<12}  parameters   GMACs  template  search  weights")
    for v in variants:
        name = f"{v.name} (default)" if v.name == DEFAULT else v.name
        weights = "present" if v.has_weights else "absent"
        print(
            f"{name:<{width}}  {v.family:<12}  {v.parameters / 1e6:>8.2f} M  {v.gmacs:>6.2f}  "
            f"{v.template.size:>5} px  {v.search.size:>3} px  {weights}"
        )
    return EXIT_OK


def _import_checkpoint(arguments: argparse.Namespace) -> int:
    from ros2_tracker.models.checkpoint import CheckpointError, import_checkpoint

    _check_model(arguments.model)
    try:
        report = import_checkpoint(arguments.file, arguments.model, arguments.output)
    except ImportError as error:
        raise OSError(f"reading checkpoints needs `pip install torch safetensors` ({error})") from error
    except CheckpointError as error:
        for problem in error.problems:
            print(f"ros2-tracker import-checkpoint: {arguments.file}: {problem}", file=sys.stderr)
        return EXIT_FAILURE
    left_out = f", left out {', '.join(report.unused)}" if report.unused else ""
    print(f"{report.output}: {report.entries} entries of {report.variant}{left_out}")
    print(f"source sha256 {report.sha256}")
    return EXIT_OK


def _export(arguments: argparse.Namespace) -> int:
    from ros2_tracker.models.variant import load_variant

    _check_model(arguments.model)
    variant = load_variant(arguments.model)
    weights = variant.require_weights(arguments.weights)
    try:
        from ros2_tracker.evaluation.export import export_checked
    except ImportError as error:
        raise OSError(f"the export needs `pip install torch safetensors onnx onnxscript` ({error})") from error

    report = export_checked(
        variant,
        weights,
        arguments.output,
        arguments.precision,
        arguments.batch,
        check=not arguments.no_check,
        progress=lambda step: print(f"ros2-tracker export: {step}", file=sys.stderr),
    )
    print(json.dumps(report.as_dict()) if arguments.json else report.as_text())
    return EXIT_OK


def _eval(arguments: argparse.Namespace) -> int:
    _check_model(arguments.model)
    if arguments.latency_ms is not None and arguments.camera_fps is None:
        raise UsageError("--latency-ms belongs to the streaming run: give --camera-fps")
    if arguments.disappearances is not None and not arguments.reliability:
        raise UsageError("--disappearances belongs to --reliability: give it, too")
    _target_settings(arguments)  # refused before anything is loaded
    from ros2_tracker.evaluation import eval_cli
    from ros2_tracker.evaluation.peers import PeerError

    try:
        return eval_cli.run(arguments, _engine_settings(arguments))
    except PeerError as error:
        raise UsageError(str(error)) from error


def _calibrate(arguments: argparse.Namespace) -> int:
    _check_model(arguments.model)
    from ros2_tracker.evaluation import calibrate_cli

    return calibrate_cli.run(arguments, _engine_settings(arguments))


def _train(arguments: argparse.Namespace) -> int:
    try:
        from ros2_tracker.training import cli as training_cli
    except ImportError as error:
        raise OSError(f"training needs `pip install 'ros2-tracker[train]'` ({error})") from error
    return training_cli.run(arguments)


def _quantize(arguments: argparse.Namespace) -> int:
    from ros2_tracker.models.variant import WeightsMissingError, find_weights, load_variant, user_weights_dir

    _check_model(arguments.model)
    variant = load_variant(arguments.model)
    graph = arguments.graph or find_weights(variant.graphs["fp32"])
    if graph is None:
        missing = user_weights_dir() / variant.graphs["fp32"]
        raise WeightsMissingError(
            f"model {variant.name}: there is no fp32 graph to quantise; `ros2-tracker export --model {variant.name} "
            f"-o {missing}` makes one, or name it with --graph"
        )
    try:
        from ros2_tracker.evaluation.quantize import quantize_checked
    except ImportError as error:
        raise OSError(f"quantising needs `pip install onnx` ({error})") from error

    report = quantize_checked(
        variant,
        graph,
        arguments.sequences,
        arguments.output,
        arguments.frames,
        arguments.method,
        check=not arguments.no_check,
    )
    print(json.dumps(report.as_dict()) if arguments.json else report.as_text())
    return EXIT_OK


class _StandardError:
    """A logger of lines for people."""

    def info(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def _build_engine(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ros2_tracker.engines.build import build_ahead
    from ros2_tracker.engines.load import EngineSettings
    from ros2_tracker.engines.loading import Loading
    from ros2_tracker.models.variant import load_variant

    _check_model(arguments.model)
    try:
        settings = EngineSettings(
            "tensorrt", arguments.precision, arguments.weights, device=arguments.device, cache_dir=arguments.cache_dir
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    variant = load_variant(arguments.model)
    # Where there is no terminal to draw a bar on, a build of minutes would look like a crash.
    log = Loading(_StandardError(), arguments.model)
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}", disable=None, leave=False) as bar:

        def show(phase: str, fraction: float | None) -> None:
            bar.set_description(phase[:60], refresh=False)
            bar.n = bar.n if fraction is None else round(100 * fraction)
            bar.refresh()

        built = build_ahead(variant, settings, arguments.without_gpu, log.report if bar.disable else show)
    for engine in built:
        tested = engine.self_test or "not tested: there was no GPU"
        print(f"{engine.file}: {engine.megabytes:.1f} MiB, {engine.seconds:.1f} s, {tested}")
    return EXIT_OK


def _doctor(arguments: argparse.Namespace) -> int:
    from ros2_tracker import doctor

    checks = doctor.examine()
    print(doctor.as_json(checks) if arguments.json else doctor.as_text(checks))
    return EXIT_OK if doctor.healthy(checks) else EXIT_FAILURE


def _bench(arguments: argparse.Namespace) -> int:
    _check_model(arguments.model)
    if arguments.node:
        try:
            from ros2_tracker.ros import node_bench
        except ImportError as error:
            raise OSError(
                f"--node needs ROS 2 and this package's messages ({error}); `ros2-tracker doctor` says what to do"
            ) from error
        return node_bench.run(arguments)
    from ros2_tracker.evaluation.bench import run_bench

    settings = _bench_settings(arguments)
    if arguments.self_test:
        return _self_test(arguments.model, settings)
    reports = run_bench(arguments.model, arguments.frames, arguments.size, arguments.targets, settings)
    if not arguments.json:
        print("\n\n".join(report.as_text() for report in reports))
    elif len(reports) == 1:
        print(json.dumps(reports[0].as_dict()))
    else:
        print(json.dumps({"runs": [report.as_dict() for report in reports]}))
    return EXIT_OK


def _bench_settings(arguments: argparse.Namespace) -> list[EngineSettings]:
    """The engine that was asked for, or all that can run the model here."""
    if arguments.engine != "all":
        return [_engine_settings(arguments)]
    from dataclasses import replace

    from ros2_tracker.engines.load import usable_options
    from ros2_tracker.models.variant import load_variant

    arguments.engine = "auto"
    any_engine = _engine_settings(arguments)
    usable = [o for o in usable_options(load_variant(arguments.model), any_engine) if not o.missing]
    return [
        replace(any_engine, engine=o.engine, precision=o.precision, device=any_engine.device if o.gpu else "cpu")
        for o in usable
    ]


def _self_test(model: str, settings: Sequence[EngineSettings]) -> int:
    """Compare engines with one on the CPU."""
    from ros2_tracker.engines.load import EngineSettings, load_engines
    from ros2_tracker.engines.self_test import TOLERANCES, self_test
    from ros2_tracker.models.variant import load_variant

    variant = load_variant(model)
    passed = True
    for each in settings:
        try:
            reference = load_engines(variant, EngineSettings("auto", "fp32", each.weights, device="cpu"))
        except (ValueError, OSError):  # there is only another precision of it
            reference = load_engines(variant, EngineSettings("auto", "auto", each.weights, device="cpu"))
        tested = load_engines(variant, each)
        precision = max(tested.precision, reference.precision, key=TOLERANCES.__getitem__)
        result = self_test(tested, reference, precision)
        passed = passed and result.passed
        print(f"{tested.per_frame.description}, against {reference.per_frame.description}: {result.text}")
    return EXIT_OK if passed else EXIT_FAILURE


def _engine_settings(arguments: argparse.Namespace) -> EngineSettings:
    from ros2_tracker.engines.load import EngineSettings

    try:
        return EngineSettings(
            arguments.engine,
            arguments.precision,
            arguments.weights,
            device=arguments.device,
            compiled=arguments.compile,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_model(name: str) -> None:
    from ros2_tracker.models.variant import load_variant

    try:
        load_variant(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _target_settings(arguments: argparse.Namespace) -> TargetSettings:
    """The model's own, changed by --set."""
    from ros2_tracker.models.variant import load_variant
    from ros2_tracker.tracking.settings import default_settings, target_settings

    try:
        return target_settings(dict(arguments.set), default_settings(load_variant(arguments.model)))
    except ValueError as error:
        raise UsageError(f"--set: {error}") from error


# -- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    import ros2_tracker
    from ros2_tracker.engines.base import PRECISIONS

    parser = _Parser(
        prog="ros2-tracker",
        description="Follow one object through images, and say how far the answer can be trusted.",
        epilog="example: ros2-tracker track clip.mp4 --init 120,80,64,48 --output overlay.mp4",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {ros2_tracker.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    track = verbs.add_parser(
        "track",
        help="follow a target through a video or a folder of images",
        description="Follow a target through a video, a folder of images, or a folder in OTB layout (img/ and "
        "groundtruth_rect.txt), whose truth also gives the first box and is compared with.",
        epilog="example: ros2-tracker track clip.mp4 --init 120,80,64,48 --output overlay.mp4 --results tracks.csv",
    )
    track.add_argument("source", metavar="VIDEO_OR_FOLDER")
    track.add_argument(
        "--init",
        type=_box,
        metavar="X,Y,W,H",
        help="the target's box in the first frame, px (write --init=-5,... where x is negative)",
    )
    _add_network(track)
    _add_changes(track)
    track.add_argument("--fps", type=_positive, metavar="HZ", help="frame rate (default: the video's, else 30)")
    track.add_argument("--output", type=_mp4, metavar="FILE.mp4", help="write a video with the boxes drawn in")
    track.add_argument("--results", type=Path, metavar="FILE.csv", help="write box, reliability and state per frame")
    track.add_argument("--json", action="store_true", help="print the summary as JSON")
    track.set_defaults(run=_track)

    models = verbs.add_parser(
        "models",
        help="list the model variants",
        description="List the model variants: family, parameters, multiply-adds, input sizes, weights.",
        epilog="example: ros2-tracker models --json",
    )
    models.add_argument("--json", action="store_true", help="print as JSON")
    models.set_defaults(run=_models)

    importer = verbs.add_parser(
        "import-checkpoint",
        help="convert an official checkpoint to safetensors",
        description="Read an official OSTrack or STARK checkpoint without unrestricted pickle and write its weights as "
        "safetensors. What does not fit is named, a line each.",
        epilog="example: ros2-tracker import-checkpoint OSTrack_ep0300.pth.tar --model ostrack-b256 "
        "-o ostrack-b256.safetensors",
    )
    importer.add_argument("file", metavar="FILE", type=Path)
    importer.add_argument("--model", required=True, metavar="M", help="the variant that the weights belong to")
    importer.add_argument("-o", "--output", required=True, type=Path, metavar="OUT.safetensors")
    importer.set_defaults(run=_import_checkpoint)

    export = verbs.add_parser(
        "export",
        help="write a network's ONNX graph",
        description="Write the ONNX graph of a network, with what comes before and after it inside: uint8 crops in, a "
        "box out. STARK has a second one beside it, OUT.template.onnx. The graph is compared with torch before it is "
        "put into its place.",
        epilog="example: ros2-tracker export --model ostrack-b256 --precision fp16 -o ostrack-b256.fp16.onnx",
    )
    export.add_argument("--model", required=True, metavar="M", help="a variant that `ros2-tracker models` lists")
    export.add_argument("-o", "--output", required=True, type=_onnx, metavar="OUT.onnx")
    export.add_argument("--weights", metavar="FILE.safetensors", help="instead of the model's own")
    export.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of the graph (default: fp32)")
    export.add_argument(
        "--batch", type=_count, default=None, metavar="N", help="targets a run handles (default: any number)"
    )
    export.add_argument("--no-check", action="store_true", help="do not compare with torch")
    export.add_argument("--json", action="store_true", help="print as JSON")
    export.set_defaults(run=_export)

    _add_eval(verbs)
    _add_calibrate(verbs)
    _add_train(verbs)

    quantizer = verbs.add_parser(
        "quantize",
        help="make a network's int8 graph for TensorRT, calibrated on sequences",
        description="Run a fp32 graph on crops of annotated sequences and write it with int8 convolutions and matrix "
        "products, as TensorRT takes them (engine tensorrt, precision int8). The new graph is compared with the fp32 "
        "one on other frames before it is put into its place.",
        epilog="example: ros2-tracker quantize sequences --model ostrack-b256 --frames 200",
    )
    quantizer.add_argument(
        "sequences", metavar="FOLDER", type=Path, help="a sequence in OTB layout with its truth, or a folder of them"
    )
    quantizer.add_argument("--model", default="default", metavar="M", help="a variant that `ros2-tracker models` lists")
    quantizer.add_argument("--graph", type=_onnx, metavar="FILE.onnx", help="instead of the model's own fp32 graph")
    quantizer.add_argument(
        "-o", "--output", type=_onnx, metavar="OUT.onnx", help="(default: where precision int8 looks for it)"
    )
    quantizer.add_argument(
        "--frames", type=_count, default=200, metavar="N", help="to calibrate with, spread evenly (default: 200)"
    )
    quantizer.add_argument(
        "--method",
        choices=("minmax", "percentile", "entropy"),
        default="percentile",
        help="how ranges are found: percentile is closest to fp32, minmax the quickest (default: percentile)",
    )
    quantizer.add_argument("--no-check", action="store_true", help="do not compare with the fp32 graph")
    quantizer.add_argument("--json", action="store_true", help="print as JSON")
    quantizer.set_defaults(run=_quantize)

    builder = verbs.add_parser(
        "build-engine",
        help="build and cache the TensorRT engine of a model ahead of time",
        description="Build the TensorRT engine that the node would otherwise build when it is configured, test it, and "
        "put it into the cache.",
        epilog="example: ros2-tracker build-engine --model ostrack-b256 --precision fp16",
    )
    builder.add_argument("--model", default="default", metavar="M", help="a variant that `ros2-tracker models` lists")
    builder.add_argument("--precision", choices=PRECISIONS, default="auto", help="(default: auto)")
    builder.add_argument("--weights", metavar="FILE.onnx", help="instead of the model's own graph")
    builder.add_argument("--device", default="auto", metavar="D", help="cuda or cuda:N (default: the first GPU)")
    builder.add_argument("--cache-dir", metavar="FOLDER", help="of engines (default: the user's own)")
    builder.add_argument(
        "--without-gpu", action="store_true", help="on a machine without one, for any that TensorRT for RTX supports"
    )
    builder.set_defaults(run=_build_engine)

    doctor = verbs.add_parser(
        "doctor",
        help="say what is there to run with, and what to do about what is not",
        description="Look for run times, ROS 2, GPU and shared memory, and say what to do about what is missing. "
        "Exit status 1 when the default tracker cannot run.",
        epilog="example: ros2-tracker doctor",
    )
    doctor.add_argument("--json", action="store_true", help="print as JSON")
    doctor.set_defaults(run=_doctor)

    bench = verbs.add_parser(
        "bench",
        help="time every stage of an update",
        description="Time crop, network, decode and the whole update on rendered frames; start-up and memory, too. "
        "Engines (--engine all: every one that can run the model here) and numbers of targets take turns.",
        epilog="example: ros2-tracker bench --size 1920x1080 --engine all --targets 1,4",
    )
    _add_network(bench, "all")
    bench.add_argument("--frames", type=_count, default=300, metavar="N", help="how many to time (default: 300)")
    bench.add_argument("--size", type=_size, default=(640, 480), metavar="WxH", help="of the frames (default: 640x480)")
    bench.add_argument(
        "--targets", type=_counts, default=(1,), metavar="K[,K...]", help="followed at once, in turns (default: 1)"
    )
    bench.add_argument("--self-test", action="store_true", help="compare the engine with one on the CPU instead")
    bench.add_argument("--json", action="store_true", help="print as JSON")
    node = bench.add_argument_group("the ROS 2 node instead, with a camera and a client in processes of their own")
    node.add_argument("--node", action="store_true", help="time the node from an image's stamp to its track's arrival")
    node.add_argument("--rate", type=_positive, default=30.0, metavar="HZ", help="of the images (default: 30)")
    node.add_argument("--duration", type=_positive, default=10.0, metavar="S", help="to measure for (default: 10)")
    node.add_argument(
        "--absent",
        type=_positive,
        default=0.0,
        metavar="S",
        help="take the target out of the picture for S of every 3 S seconds: latency while it is LOST (default: never)",
    )
    node.add_argument("--encoding", default="bgr8", help="of the images (default: bgr8)")
    node.add_argument(
        "--reliability", choices=("best_effort", "reliable"), default="best_effort", help="of the image topic"
    )
    node.add_argument(
        "--parameter", action="append", default=[], metavar="NAME:=VALUE", help="of the node; can be repeated"
    )
    bench.set_defaults(run=_bench)
    return parser


def _add_eval(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluation = verbs.add_parser(
        "eval",
        help="measure accuracy and speed on annotated sequences, beside other trackers",
        description="Follow the target of every sequence of a dataset and compare with the truth: success AUC (21 "
        "thresholds, strictly above), precision at 20 px, normalised precision, AO, SR50, SR75, time to failure, ms a "
        "frame, and how honestly a loss was admitted. Exit status 1 when a sequence had to be left out.",
        epilog="example: ros2-tracker eval otb100 --peer csrt --peer nano:weights/nanotrack --restarts "
        "--camera-fps 30 --report eval_report",
    )
    evaluation.add_argument("dataset", metavar="DATASET", help="folder of a dataset, or of one sequence")
    formats = ("otb", "got10k", "lasot", "uav123", "vot")
    evaluation.add_argument("--format", choices=formats, help="its layout (default: told from its files)")
    evaluation.add_argument("--sequences", type=_names, metavar="NAME[,NAME...]", help="only these")
    _add_network(evaluation)
    _add_changes(evaluation)
    evaluation.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="P",
        help="run beside ours: csrt, kcf, nano:FOLDER, vit:FILE (OpenCV's, with the authors' weights), or model:NAME "
        "(another variant of ours, without what --set changes); can be repeated",
    )
    evaluation.add_argument(
        "--restarts", action="store_true", help="a further run with restarts after failures: accuracy, robustness, EAO"
    )
    evaluation.add_argument(
        "--camera-fps",
        type=_positive,
        metavar="HZ",
        help="a further run with frames at this rate, of which those that come while the tracker is busy are skipped",
    )
    evaluation.add_argument(
        "--latency-ms", type=_positive, metavar="L", help="in that run, what an update takes (default: measured)"
    )
    evaluation.add_argument(
        "--reliability",
        action="store_true",
        help="judge reliability and states as well, on a further run with disappearances made from the footage",
    )
    evaluation.add_argument(
        "--disappearances",
        type=_count,
        metavar="N",
        help="in that run, how many are made of each sequence (default: 6, one of each kind)",
    )
    evaluation.add_argument(
        "--fps", type=_positive, default=_DEFAULT_FPS, metavar="HZ", help="of the footage (default: 30)"
    )
    evaluation.add_argument("--processes", type=_count, default=1, metavar="N", help="at once (default: 1)")
    evaluation.add_argument(
        "--seed", type=int, default=0, help="of OpenCV's random numbers and of made disappearances (default: 0)"
    )
    evaluation.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write report.html, summary.json, sequences.csv and a table a run; a call with the same DIR goes on where "
        "one before was interrupted",
    )
    evaluation.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON (-: to the terminal)")
    evaluation.add_argument("--note", default="", metavar="TEXT", help="a sentence about the dataset for the report")
    evaluation.set_defaults(run=_eval)


def _add_calibrate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fit = verbs.add_parser(
        "calibrate",
        help="fit a model's reliability on annotated sequences",
        description="Track a dataset's sequences, and disappearances made from them, fit the probability that a box "
        "has IoU >= 0.5 with the target from the reliability's signals, and write it as JSON where the model finds it. "
        "Prints how good such a fit is on clips that were left out (docs/reliability.md).",
        epilog="example: ros2-tracker calibrate default sequences --note 'our own footage, 12 clips'",
    )
    fit.add_argument("model", metavar="MODEL", help="a variant that `ros2-tracker models` lists")
    fit.add_argument("dataset", metavar="DATASET", help="folder of a dataset, as for `ros2-tracker eval`")
    formats = ("otb", "got10k", "lasot", "uav123", "vot")
    fit.add_argument("--format", choices=formats, help="its layout (default: told from its files)")
    fit.add_argument("--sequences", type=_names, metavar="NAME[,NAME...]", help="only these")
    fit.add_argument("--folds", type=_count, default=5, metavar="K", help="of the cross-validation (default: 5)")
    fit.add_argument(
        "--signals", type=_names, default=(), metavar="NAME[,NAME...]", help="these, instead of the ones that help most"
    )
    fit.add_argument(
        "--disappearances",
        type=_none_or_more,
        default=2,
        metavar="N",
        help="made of each sequence, as `eval --reliability` makes them (default: 2; 0: none)",
    )
    _add_engine(fit)
    fit.add_argument("--fps", type=_positive, default=_DEFAULT_FPS, metavar="HZ", help="of the footage (default: 30)")
    fit.add_argument("--processes", type=_count, default=1, metavar="N", help="at once (default: 1)")
    fit.add_argument(
        "--store", type=Path, metavar="DIR", help="keep the table of each run, and go on with those that are there"
    )
    fit.add_argument("--note", default="", metavar="TEXT", help="for the file: what the model saw in training, say")
    fit.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="instead of MODEL.reliability.json among the user's weights, where the model looks first",
    )
    fit.add_argument("--json", action="store_true", help="print figures and fit as JSON")
    fit.set_defaults(run=_calibrate)


def _add_train(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    trainer = verbs.add_parser(
        "train",
        help="train a network",
        description="Train a network as a YAML file says (docs/training.md lists its keys), on a CPU or a GPU, or on "
        "several with `torchrun --nproc-per-node N -m ros2_tracker train ...`. The output folder gets checkpoint, "
        "weights.safetensors, curves.csv and the config. Ctrl-C writes a checkpoint before it ends.",
        epilog="example: ros2-tracker train config/training/smoke.yaml --data packs --output runs/smoke --resume",
    )
    trainer.add_argument("config", metavar="CONFIG.yaml", type=Path)
    trainer.add_argument("--resume", action="store_true", help="go on with the run in the output folder, if any")
    trainer.add_argument("--data", metavar="DIR", type=Path, help="folder of the data, instead of the config's")
    trainer.add_argument("--output", metavar="DIR", type=Path, help="folder to write to, instead of the config's")
    trainer.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N, instead of the config's")
    trainer.set_defaults(run=_train)


def _add_network(parser: argparse.ArgumentParser, *more_engines: str) -> None:
    parser.add_argument("--model", default="default", metavar="M", help="a variant that `ros2-tracker models` lists")
    _add_engine(parser, *more_engines)


def _add_engine(parser: argparse.ArgumentParser, *more_engines: str) -> None:
    from ros2_tracker.engines.base import ENGINES, PRECISIONS

    engines = (*ENGINES, *more_engines)
    parser.add_argument("--engine", choices=engines, default="auto", help="what runs the network (default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of its arithmetic (default: auto)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--compile", action="store_true", help="let torch fuse operations on a GPU: a minute longer to start"
    )
    parser.add_argument("--weights", metavar="FILE", help="ONNX graph or safetensors instead of the model's own")


def _add_changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        type=_change,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of tracking, named as the node's parameter: reliability.lost_after=0.6; can be repeated",
    )


def _change(text: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, w, h = (float(v) for v in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y,w,h in pixels") from None
    if not all(math.isfinite(v) for v in (x, y, w, h)) or w <= 0.0 or h <= 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} must be finite, with a positive width and height")
    return x, y, w, h


def _onnx(text: str) -> Path:
    if not text.lower().endswith(".onnx"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .onnx")
    return Path(text)


def _mp4(text: str) -> Path:
    if not text.lower().endswith(".mp4"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .mp4")
    return Path(text)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(v) for v in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels") from None
    if not (64 <= width <= 16384 and 64 <= height <= 16384):
        raise argparse.ArgumentTypeError(f"{text!r}: width and height must be within 64 and 16384 px")
    return width, height


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _none_or_more(text: str) -> int:
    return 0 if text.strip() == "0" else _count(text)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value
