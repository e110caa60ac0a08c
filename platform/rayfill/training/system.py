"""How busy the machine is, under the names that MLflow's UI shows as system metrics."""

from __future__ import annotations

import psutil
import torch


def begin_system_metrics() -> None:
    """Start the time that the first CPU use is measured over; without it, that one is 0."""
    psutil.cpu_percent()


def system_metrics(device: torch.device) -> dict[str, float]:
    """Return CPU use since the last call in percent, and memory in use in megabytes."""
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": psutil.virtual_memory().used / 1e6,
    }
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device) / 1e6
        values["system/gpu_0_memory_usage_megabytes"] = used
    return values
