"""What is recorded of the machine."""

from __future__ import annotations

import time

import torch

from rayfill.training.system import begin_system_metrics, system_metrics


def test_the_first_epoch_has_its_cpu_use_too() -> None:
    begin_system_metrics()
    busy_until = time.process_time() + 0.2
    while time.process_time() < busy_until:  # of this process alone
        pass
    found = system_metrics(torch.device("cpu"))
    assert 0 < found["system/cpu_utilization_percentage"] <= 100
    assert found["system/system_memory_usage_megabytes"] > 10
    assert "system/gpu_0_memory_usage_megabytes" not in found
