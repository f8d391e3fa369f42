"""Follow a person past a look-alike and under a roof: real tracker and follow-me nodes, rendered camera.

Run as `python -m examples.follow_me.simulation [--seeds N] [--output FOLDER]`, or `make demo-follow`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ros2_tracker.evaluation.bench import machine_description

from . import score
from .film import write_film, write_top_view
from .loop import RATE_HZ, Pace, SimulationError, simulate
from .render import Renderer
from .world import MEETINGS, Pinhole, Scenario


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 when a goal was not reached or a node failed, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    # As Ctrl-C: the nodes are ended with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    camera = Pinhole()
    summaries, written = [], []
    try:
        pace = Pace(arguments.pace, arguments.delay)
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            scenario = Scenario.make(seed, arguments.duration, arguments.meeting, arguments.likeness)
            renderer = Renderer(scenario, camera)
            with tqdm(total=round(arguments.duration), unit="s", desc=f"seed {seed}", disable=arguments.json) as bar:
                run = simulate(
                    scenario, renderer, camera, pace, tuple(arguments.param), lambda t, b=bar: b.update(round(t) - b.n)
                )
                bar.update(bar.total - bar.n)
            summaries.append(score.summary(run))
            if arguments.seeds > 1:
                print(json.dumps(summaries[-1]), file=sys.stderr, flush=True)
            if arguments.output:
                folder = Path(arguments.output)
                folder.mkdir(parents=True, exist_ok=True)
                name = "follow" if arguments.seeds == 1 else f"follow_{seed}"
                table, film, top = (folder / f"{name}{end}" for end in (".csv", ".mp4", "_top.png"))
                score.write_csv(table, run)
                written.append(table)
                if not arguments.no_film:
                    print(f"drawing {film}", file=sys.stderr, flush=True)
                    write_film(film, run, renderer)
                    write_top_view(top, run, renderer.ground)
                    written += [film, top]
    except (SimulationError, ValueError, OSError) as error:
        print(f"demo-follow: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return _finish(summaries, written, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo-follow", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs, each with a seed of its own")
    parser.add_argument("--duration", type=float, default=60.0, help="s of each run, at least 12")
    parser.add_argument(
        "--pace", type=float, default=0.0, help="simulated s for each s, 1: real time; 0: lock-step (default)"
    )
    parser.add_argument("--delay", type=float, default=0.05, help="s of a command to the motors, in lock-step")
    parser.add_argument(
        "--meeting",
        choices=MEETINGS,
        default="open",
        help="the look-alike passes by on the open path, or is the only person in view while the target is hidden",
    )
    parser.add_argument(
        "--likeness", type=float, default=0.25, help="of the look-alike's clothes to the target's, 0 to 1 (the same)"
    )
    parser.add_argument("--param", action="append", default=[], help="name:=value for the tracker node")
    parser.add_argument("--output", help="folder for follow.mp4, follow_top.png, follow.csv and follow.json")
    parser.add_argument("--no-film", action="store_true", help="no video")
    parser.add_argument("--json", action="store_true", help="JSON on one line, and no progress bar or summary")
    return parser


def _finish(summaries: list[dict[str, object]], written: list[Path], arguments: argparse.Namespace) -> int:
    total = score.goals(summaries)
    result = {
        "machine": machine_description(),
        "pace": "lock-step" if not arguments.pace else arguments.pace,
        "duration_s": arguments.duration,
        "meeting": arguments.meeting,
        "likeness": arguments.likeness,
        "goals": total,
        "reached": score.reached(total),
        "runs": summaries,
    }
    print(json.dumps(result) if arguments.json else "\n".join(_report(summaries)))
    if arguments.output:
        path = Path(arguments.output) / "follow.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if not arguments.json:
            print(f"written          {', '.join(map(str, [*written, path]))}")
    if not result["reached"] and not arguments.json:
        print("demo-follow: a goal was missed", file=sys.stderr)
    return 0 if result["reached"] else 1


def _report(summaries: list[dict[str, Any]]) -> Iterator[str]:
    """What a person wants to know of each run."""
    for run in summaries:
        central = run["central_share_while_visible"]
        followed_s = run["look_alike_followed_images"] / RATE_HZ
        after_s = run["taken_up_after_s"]
        yield f"seed             {run['seed']}"
        yield f"in the middle    {central:.1%} of the {run['visible_s']:.0f} s in view (goal {score.CENTRAL_SHARE:.0%})"
        yield f"look-alike       in view for {run['look_alike_in_view_s']:.0f} s, followed for {followed_s:.1f} s"
        for loss in run["losses"]:
            yield f"LOST             at {loss['at_s']:.1f} s, zero command after {loss['zero_after_s']:.2f} s"
        yield f"taken up again   {'never' if after_s is None else f'{after_s:.1f} s'} after the roof"


if __name__ == "__main__":
    sys.exit(main())
