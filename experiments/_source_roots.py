"""Lets the code beside an experiment win over an installed copy, also on a cluster.

A job's uploaded working directory holds the three source roots; without this the cluster would run
whatever version of Rayfill its machines were set up with.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT / root) for root in ("platform", "data", "serving")]
