"""Paired measurements: the same work done in several ways, in turns, in one run.

Each round does the work once in every way, beginning with another one each time; what counts is
the ratio of times within a round, so that a machine that is slow for a while slows all of them.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from rayfill.runs.provenance import code_version

_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_FAMILIES = re.compile(r"epyc|xeon|ryzen|threadripper|core|neoverse|graviton|m\d", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """The same work in several ways."""

    title: str
    ways: Mapping[str, Callable[[], object]]
    """One round of the work, by name; the first is what the others are compared with."""
    units: int
    """How much work a round is: so many..."""
    unit: str
    """...of these."""
    rounds: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theme:
    """One question and the cases that answer it; each theme gives a pair of result files."""

    title: str
    about: str
    libraries: tuple[str, ...]
    cases: Callable[[Path], Iterator[Case]]
    """Given an empty folder; what it set up lasts until the next case is asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds per unit of every round, by way, in the order of the rounds."""

    title: str
    unit: str
    seconds: Mapping[str, list[float]]
    notes: tuple[str, ...]


def measure(case: Case, *, rounds: int | None) -> Measured:
    """Run every way once to warm up, then all rounds."""
    for run in case.ways.values():
        run()
    names = list(case.ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds or case.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            case.ways[name]()
            seconds[name].append((time.perf_counter() - started) / case.units)
    return Measured(title=case.title, unit=case.unit, seconds=seconds, notes=case.notes)


def facts(libraries: tuple[str, ...]) -> dict[str, str]:
    """Return what the figures were measured on and with; nothing that names the machine."""
    cores, model = len(os.sched_getaffinity(0)), _cpu_field("model name")
    flags = set(_cpu_field("flags").split())
    sets = [name for name in _INSTRUCTION_SETS if name in flags]
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = [f"{name} {importlib.metadata.version(name)}" for name in libraries]
    return {
        "machine": f"{cores} cores of {model} ({', '.join(sets)}), {memory_gib:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "threads": f"{torch.get_num_threads()} per process",
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "commit": code_version(),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def hardware_slug() -> str:
    """Return the machine in a word for file names, such as ``2core-epyc``."""
    family = _FAMILIES.search(_cpu_field("model name"))
    name = family[0].lower() if family else platform.machine()
    return f"{len(os.sched_getaffinity(0))}core-{name}"


def write_results(
    theme: Theme, results: list[Measured], *, about: Mapping[str, str], stem: Path
) -> None:
    """Write ``STEM.json`` (every round) and ``STEM.md`` (the table)."""
    document = {
        "title": theme.title,
        **about,
        "cases": [dataclasses.asdict(result) for result in results],
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(document, indent=1) + "\n")
    stem.with_name(f"{stem.name}.md").write_text(markdown(theme, results, about=about))


def markdown(theme: Theme, results: list[Measured], *, about: Mapping[str, str]) -> str:
    """Return the results as a page."""
    lines = [f"# {theme.title}", "", theme.about, ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += ["", "Median [interquartile range] over the rounds; a ratio below 1 is faster.", ""]
    for result in results:
        base, *_ = result.seconds
        rounds = len(result.seconds[base])
        lines += [f"## {result.title}", "", f"| way | time per {result.unit} | ratio |"]
        lines += ["|---|---|---|"]
        for name, seconds in result.seconds.items():
            pairs = zip(seconds, result.seconds[base], strict=True)
            ratio = "1" if name == base else _spread([a / b for a, b in pairs])
            lines.append(f"| {name} | {_time(seconds)} | {ratio} |")
        lines += ["", " ".join([f"{rounds} rounds.", *result.notes]), ""]
    return "\n".join(lines)


def _time(seconds: list[float]) -> str:
    scale, unit = (1, "s") if statistics.median(seconds) >= 1 else (1e3, "ms")
    return f"{_spread([value * scale for value in seconds])} {unit}"


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3g}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def _cpu_field(name: str) -> str:
    """Return a field of the first processor in ``/proc/cpuinfo``, empty where there is none."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = re.search(rf"^{name}\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
