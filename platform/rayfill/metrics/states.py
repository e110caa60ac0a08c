"""What metrics have added up, as plain data that crosses processes and adds up again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torchmetrics import Metric

#: Sums, counts and lists of rows by name, on the CPU.
State = Mapping[str, Any]


def taken(metric: Metric) -> State:
    """Return what a metric has added up so far, and empty it."""

    def move(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(value, list):
            return [part.detach().cpu() for part in value]
        return value.detach().cpu()

    state = {name: move(value) for name, value in metric.metric_state.items()}
    metric.reset()
    return state


def add_states(metric: Metric, states: Iterable[State]) -> None:
    """Let an empty metric have seen what others of its kind have seen, in their order.

    Args:
        metric: made like those that the states are of, on the CPU; of sums alone.
        states: what :func:`taken` returned.
    """
    for state in states:
        metric.merge_state(dict(state))
        metric._update_count += 1  # else it warns of a value without samples
