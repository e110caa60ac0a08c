"""What metrics have added up, as plain data that crosses processes and adds up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

#: Sums, counts and lists of values by name, on the CPU.
State = Mapping[str, Any]


def state_of(metric: Metric) -> State:
    """Return what a metric has added up so far."""

    def move(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(value, list):
            return [part.detach().cpu() for part in value]
        return value.detach().cpu()

    return {name: move(value) for name, value in metric.metric_state.items()}


def add_states(metric: Metric, states: Sequence[State]) -> None:
    """Let an empty metric have seen what others of its kind have seen, in their order.

    Args:
        metric: made like those that the states are of, on the CPU.
        states: what :func:`state_of` returned; sums add up, lists are joined.
    """
    for state in reversed(states):  # torchmetrics puts what comes in before what is there
        metric.merge_state(dict(state))
    metric._update_count += len(states)  # else it warns of a value without samples
