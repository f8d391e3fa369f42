"""Least squares as ATOM solves them (arXiv 1811.07628, sec. 3.3): Gauss-Newton, each step by conjugate gradients.

A loss is the squared length of `residuals(parameters)`, regularisation included; parameters and residuals are tuples of
tensors. The Jacobian J is never written down: its products come from automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = tuple[Tensor, ...]
Residuals: TypeAlias = Callable[..., Tensors]
"""One argument a parameter."""

_TINY = 1e-12


def gauss_newton(residuals: Residuals, start: Tensors, steps: int, iterations: int) -> Tensors:
    """Parameters after some steps from `start`.

    Args:
        residuals: r(w); the loss is |r|^2.
        start: the parameters to start from.
        steps: how often the residuals are taken to be linear.
        iterations: conjugate gradients in each.

    """
    found = start
    for _ in range(steps):
        found = _step(residuals, found, iterations)
    return found


def _step(residuals: Residuals, start: Tensors, iterations: int) -> Tensors:
    at = tuple(value.detach().requires_grad_(True) for value in start)
    with torch.enable_grad():
        now = residuals(*at)
        # J^T u is linear in u, and its derivative along a direction is J times that: the graph is made only once.
        probes = tuple(torch.zeros_like(part).requires_grad_(True) for part in now)
        pulled = torch.autograd.grad(now, at, probes, create_graph=True)

    def back(errors: Tensors) -> Tensors:
        return torch.autograd.grad(now, at, errors, retain_graph=True)

    def curvature(direction: Tensors) -> Tensors:
        """J^T J times a direction."""
        return back(torch.autograd.grad(pulled, probes, direction, retain_graph=True))

    gradient = back(tuple(part.detach() for part in now))
    change = conjugate_gradients(curvature, tuple(-part for part in gradient), iterations)
    return tuple((value + part).detach() for value, part in zip(start, change, strict=True))


def conjugate_gradients(apply: Callable[[Tensors], Tensors], right: Tensors, iterations: int) -> Tensors:
    """Solve A x = right from x = 0 on, for a symmetric A that is not negative; ends early where nothing is left."""
    solution = tuple(torch.zeros_like(part) for part in right)
    rest = direction = right
    length = _dot(rest, rest)
    for _ in range(iterations):
        if float(length) < _TINY:
            break
        applied = apply(direction)
        step = length / _dot(direction, applied).clamp_min(_TINY)
        solution = _moved(solution, direction, step)
        rest = _moved(rest, applied, -step)
        before, length = length, _dot(rest, rest)
        direction = _moved(rest, direction, length / before)
    return solution


def _dot(a: Tensors, b: Tensors) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _moved(a: Tensors, b: Tensors, share: Tensor) -> Tensors:
    return tuple(x + share * y for x, y in zip(a, b, strict=True))
