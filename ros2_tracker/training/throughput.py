"""How fast batches are made, and how fast the network consumes them: the first should be at least twice the second.

    python -m ros2_tracker.training.throughput CONFIG.yaml --data DIR [--threads 1]

Batches are decoded, augmented and trained on in turns, so that a noisy machine disturbs all three alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ros2_tracker.training.config import TrainingConfig, load_config
from ros2_tracker.training.processes import join
from ros2_tracker.training.render import Views
from ros2_tracker.training.setup import prepare

_WARM_UP = 2


class Throughput(NamedTuple):
    """Samples a second of each part by itself: medians."""

    decoding: float
    """Per thread (`data.workers`)."""
    augmentation: float
    network: float

    def as_text(self) -> str:
        """For people."""
        made = 1.0 / (1.0 / self.decoding + 1.0 / self.augmentation)
        return (
            f"samples/s: decoding {self.decoding:.1f} a thread, augmentation {self.augmentation:.1f}, both {made:.1f}; "
            f"network {self.network:.1f}; made / consumed {made / self.network:.2f}"
        )


def measure(config: TrainingConfig, rounds: int) -> Throughput:
    """Time some batches of a run; its output folder is not touched."""
    processes = join(config.device)
    parts = prepare(config, processes, print)
    device = processes.device
    taken: list[list[float]] = []
    # One batch at a time and in this thread: `run` would decode ahead.
    parts.batches.workers = 0
    for step in range(rounds + _WARM_UP):
        batch, decoding = _timed(lambda step=step: next(parts.batches.run(step, step + 1)), device)
        views, augmentation = _timed(lambda batch=batch: parts.viewer.views(batch.plan, batch.crops), device)

        def learn(views: Views = views, step: int = step) -> None:
            sum(parts.trainee(views).values()).backward()
            torch.nn.utils.clip_grad_norm_(parts.learning.values(), config.optimizer.clip_norm)
            parts.optimizer.step()
            parts.average.update(step)
            parts.optimizer.zero_grad(set_to_none=True)

        _, network = _timed(learn, device)
        taken.append([decoding, augmentation, network])
    medians = [statistics.median(column) for column in zip(*taken[_WARM_UP:], strict=True)]
    return Throughput(*(config.optimizer.batch / seconds for seconds in medians))


def _timed(work: Callable[[], object], device: torch.device) -> tuple[object, float]:
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def main() -> None:
    """Print the three figures."""
    from dataclasses import replace

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config)
    if arguments.data:
        config = replace(config, data=replace(config.data, folder=str(arguments.data)))
    if arguments.batch:
        config = replace(config, optimizer=replace(config.optimizer, batch=arguments.batch))
    print(measure(config, arguments.rounds).as_text())


if __name__ == "__main__":
    main()
