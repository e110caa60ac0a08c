"""``rayfill replay``: send MLflow what it could not take during an outage."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from rayfill.config.flags import parse_flags
from rayfill.runs import places


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayArgs:
    """Send what MLflow could not take; what it has already is not sent again."""

    tracking_uri: str | None = None
    """MLflow store; None as for training."""


def main(args: Sequence[str]) -> int:
    """Run the command; 1 while something is still unsent."""
    asked = parse_flags(ReplayArgs, args, prog="rayfill replay")
    from rayfill.runs.tracking import replay

    root = places.home() / "tracking"
    # A trial's run needs the id of its sweep's, whose journal is the folder named "sweep".
    folders = sorted(
        (file.parent for file in root.rglob("journal.jsonl")),
        key=lambda folder: (folder.name != "sweep", str(folder)),
    )
    left = {}
    for folder in folders:
        unsent = replay(folder, tracking_uri=places.tracking_uri(asked.tracking_uri))
        if unsent:
            left[folder] = unsent
    if left:
        from rayfill.runs.tracking import describe_unsent

        sys.stderr.write(f"rayfill: {describe_unsent(left)}\n")
        return 1
    sys.stdout.write(f"All events of {len(folders)} runs are in MLflow.\n")
    return 0
