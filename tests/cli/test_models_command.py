"""``rayfill models``: every network with its size, work, stride and source."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayfill.models import MODELS, build_model
from rayfill.models.cost import model_cost


@pytest.fixture
def table(cli: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The cells behind every name, from a terminal wide enough to fold none."""
    monkeypatch.setenv("COLUMNS", "400")
    done = cli("models")
    assert done.status == 0
    rows = [line.split("│")[1:-1] for line in done.out.splitlines() if line.startswith("│")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


def test_every_network_is_there_with_its_paper_and_numbers(table: dict[str, list[str]]) -> None:
    assert list(table) == list(MODELS)
    for name, spec in MODELS.items():
        assert table[name][3:] == [spec.paper, spec.summary]
    # A joint model is counted around another network than the one it has by default.
    for name in set(MODELS) - {"joint"}:
        with torch.device("meta"):
            model = build_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert (table[name][0], table[name][2]) == (f"{parameters:,}", str(model.stride))
    assert table["unet"][1] == f"{model_cost('unet').multiply_adds / 1e9:.2f} G"
