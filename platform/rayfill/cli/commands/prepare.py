"""``rayfill prepare SOURCE --out URI``: photos in, a prepared dataset out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from rayfill.config.flags import parse_flags
from rayfill_data.checks import Checked, Count
from rayfill_data.codec import encode_png
from rayfill_data.contract import SPLITS, Manifest
from rayfill_data.errors import redact_uri
from rayfill_data.prepared.reader import PreparedDataset
from rayfill_data.sources import SOURCES, find_source

OptionsT = TypeVar("OptionsT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareArgs(Checked, Generic[OptionsT]):
    """Where a prepared dataset goes and how it is drawn."""

    options: Annotated[OptionsT, tyro.conf.arg(name="")]
    out: str
    """Folder or URI of the dataset."""
    seed: int = 0
    """Seed of splits, crops and holes."""
    overwrite: bool = False
    """Replace another dataset that is already there."""
    preview: Path | None = None
    """PNG file for a contact sheet: samples of every split, hole marked, above image, target and
    labels."""
    preview_samples: Count = 6
    """Samples of each split on the contact sheet."""

    def relations(self) -> Iterator[str]:
        """Yield what is wrong with where the contact sheet goes."""
        if self.preview is not None and self.preview.suffix.lower() != ".png":
            yield f"--preview is {self.preview}; it must be a .png file."
        if self.preview is not None and not self.preview.absolute().parent.is_dir():
            yield f"--preview {self.preview}: its folder does not exist; make it."


def main(args: Sequence[str]) -> int:
    """Run the command."""
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, SOURCES))
        lines = "".join(f"  {name:<{width}}  {spec.summary}\n" for name, spec in SOURCES.items())
        sys.stdout.write(f"usage: rayfill prepare SOURCE --out URI [--help] ...\n\n{lines}")
        sys.stdout.write("\nA source of your own is package.module:Name (docs/extending.md).\n")
        return 0
    name, *rest = args
    spec = find_source(name)
    kind: Any = PrepareArgs[spec.options_type]  # type: ignore[name-defined]
    about = f"{spec.summary}\n\n{spec.needs}" if spec.needs else spec.summary
    asked = parse_flags(kind, rest, prog=f"rayfill prepare {name}", description=about)
    # Says what is wrong with the source before Ray starts.
    plan = spec.plan(asked.options, asked.seed)
    sys.stderr.write("".join(f"Note: {note}\n" for note in plan.notes))
    from rayfill.training.cluster import ray_cluster
    from rayfill_data.prepared.pipeline import prepare

    with ray_cluster():
        manifest = prepare(
            name, out=asked.out, options=asked.options, seed=asked.seed, overwrite=asked.overwrite
        )
    sys.stdout.write(_describe(manifest, out=asked.out))
    if asked.preview is not None:
        from rayfill_data.prepared.preview import contact_sheet

        sheet = contact_sheet(PreparedDataset.open(asked.out), per_split=asked.preview_samples)
        asked.preview.write_bytes(encode_png(sheet))
        sys.stdout.write(f"{asked.preview}: contact sheet.\n")
    return 0


def _describe(manifest: Manifest, *, out: str) -> str:
    counts = ", ".join(
        f"{split} {manifest.counts[split]} samples of {manifest.photo_counts[split]} photos"
        for split in SPLITS
    )
    rejected = f"; {manifest.rejected} files rejected, see rejected.jsonl" * bool(manifest.rejected)
    size = f"{manifest.height}x{manifest.width}" if manifest.height else "several sizes"
    return f"{redact_uri(out)}: {counts}, {size}{rejected}. Content {manifest.content_hash[:12]}.\n"
