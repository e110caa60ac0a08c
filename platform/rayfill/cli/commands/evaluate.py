"""``rayfill evaluate --model SYSTEM --data URI``: systems side by side on one dataset."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rayfill.cli.console import make_console
from rayfill.config.flags import parse_flags
from rayfill.runs.references import MODELS, SYSTEMS, reference_problems
from rayfill_data.checks import Checked, Count
from rayfill_data.contract import SPLITS
from rayfill_data.errors import ConfigError, RayfillError, unknown_name
from rayfill_data.extension import allow_modules

if TYPE_CHECKING:
    from rayfill.config.run import EvalConfig
    from rayfill.metrics import FidMetric, LpipsMetric, ResidualObjectScore


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateArgs(Checked):
    """Measure networks, classical baselines and finished pictures on the same samples.

    In total and by hole ratio, with what differences are more than chance.
    """

    model: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="SYSTEM")
    ] = ()
    """What to measure; give it once for each system. A baseline such as telea; NAME@ALIAS,
    models:/NAME@ALIAS or models:/NAME/VERSION of the model registry; runs:/ID of MLflow; a folder
    or URI of a model bundle, of a training run (its best epoch), or of the pictures that any other
    system has finished, named as the samples. LABEL=SYSTEM says what the table calls it."""
    data: str
    """Prepared dataset, folder or URI; `rayfill prepare test_set` makes one of any pictures and
    masks."""
    split: str = "test"
    """Split with frozen holes: val or test."""
    out: str | None = None
    """Folder or URI for table.json, table.csv, table.md and samples.parquet."""
    with_patches: bool = False
    """Measure every network a second time, with patches of the photo over its answer."""
    against: str | None = None
    """Name of the system that all are compared with; None is the first."""
    rank_by: str | None = None
    """Metric that systems are ranked by; None is hole_psnr, of pictures without truth coherence."""
    columns: tuple[str, ...] = ()
    """Metrics to show instead of the usual ones, such as psnr lpips l1 dice."""
    expand_px: int = 0
    """Give systems holes grown by so many pixels, or shrunk if below 0."""
    raw: bool = False
    """Measure pictures as systems answer, for those that change known pixels; otherwise known
    pixels are put back first, as users get them."""
    allow_missing: bool = False
    """Where finished pictures are missing or of another size, measure all systems on the samples
    that all have."""
    lpips_network: Literal["squeeze", "alex", "vgg"] = "squeeze"
    """LPIPS network; values of different networks are not comparable."""
    lpips_weights_path: str | None = None
    """File with the complete weights of the LPIPS network, for machines without a download."""
    fid: bool = False
    """Also measure FID; needs the package torch-fidelity, its weights and 2,048 samples."""
    fid_weights_path: str | None = None
    """File with the Inception weights published with torch-fidelity."""
    residual_object: str | None = None
    """Also measure what is still seen of the objects: a segmenter's bundle, or a joint model, named
    as a SYSTEM, of which the segmenter is taken. Best one that no system was trained with."""
    residual_label: str | None = None
    """Which of its labels the objects bear; None where it has but one beside "nothing"."""
    batch_size: Count | None = None
    """Samples at a time; None: 32, and fewer where they have more than 256x256 pixels."""
    num_workers: Count | None = None
    """Parts measured at a time. 1: all in this process. More: on Ray. None: in this process, and on
    all of a Ray cluster once the first parts say that more than a minute is left."""
    tracking_uri: str | None = None
    """MLflow store of registry and runs; None as for training."""
    allow_modules: str = ""
    """Modules, separated by commas, that a model's own network may be imported from; also the
    environment variable RAYFILL_ALLOW_MODULES."""

    def relations(self) -> Iterator[str]:
        """Yield what is missing, or does not go together."""
        if not self.model:
            yield "No --model: name at least one system to measure, such as telea."
        if self.split not in SPLITS:
            yield unknown_name("split", self.split, SPLITS)
        if self.fid_weights_path is not None and not self.fid:
            yield "--fid-weights-path is given without --fid; add --fid to measure it."
        if self.residual_label is not None and self.residual_object is None:
            yield "--residual-label is given without --residual-object; name the segmenter as well."
        if self.out is not None and "://" not in self.out and Path(self.out).is_file():
            yield f"--out {self.out} is a file; name a folder."


def main(args: Sequence[str]) -> int:
    """Run the command."""
    asked = parse_flags(EvaluateArgs, args, prog="rayfill evaluate")
    allow_modules(asked.allow_modules)
    segmenters = [asked.residual_object] if asked.residual_object is not None else []
    problems = [
        *reference_problems(asked.model, allowed=SYSTEMS),
        *reference_problems(segmenters, allowed=MODELS),
    ]
    if problems:
        raise ConfigError(problems)
    # Late: what names nothing is refused before torch is imported.
    from rayfill.evaluation.evaluate import evaluate

    evaluation = evaluate(
        asked.model,
        data=asked.data,
        split=asked.split,
        lpips=_lpips(asked),
        tracking_uri=asked.tracking_uri,
        batch_size=asked.batch_size,
        expand_px=asked.expand_px,
        raw=asked.raw,
        allow_missing=asked.allow_missing,
        num_workers=asked.num_workers,
        with_patches=asked.with_patches,
        against=asked.against,
        rank_by=asked.rank_by,
        columns=asked.columns,
        fid=_fid(asked),
        residual_object=_residual_object(asked),
    )
    evaluation.show(make_console())
    if asked.out is not None:
        sys.stdout.write(f"{', '.join(evaluation.write(asked.out))}\n")
    return 0


def _lpips(asked: EvaluateArgs) -> EvalConfig | LpipsMetric:
    """Return which LPIPS is asked for; weights that were named must do."""
    from rayfill.config.run import EvalConfig
    from rayfill.evaluation.evaluate import lpips_if_available

    config = EvalConfig(
        lpips_network=asked.lpips_network, lpips_weights_path=asked.lpips_weights_path
    )
    if asked.lpips_weights_path is None:
        return config
    lpips, why_not = lpips_if_available(config)
    if lpips is None:
        raise RayfillError(why_not)
    return lpips


def _residual_object(asked: EvaluateArgs) -> ResidualObjectScore | None:
    """Return the score of what is still seen, if asked for."""
    if asked.residual_object is None:
        return None
    from rayfill.evaluation.systems import open_segmenter
    from rayfill.metrics import ResidualObjectScore

    segmenter = open_segmenter(asked.residual_object, tracking_uri=asked.tracking_uri)
    label = asked.residual_label
    if label is None:
        if len(segmenter.labels) != 2:
            raise ConfigError(
                [
                    f"--residual-object {asked.residual_object} knows several labels "
                    f"({', '.join(segmenter.labels[1:])}): say with --residual-label which the "
                    "objects bear."
                ]
            )
        label = segmenter.labels[1]
    return ResidualObjectScore(segmenter, label=label, source=asked.residual_object)


def _fid(asked: EvaluateArgs) -> FidMetric | None:
    from rayfill.metrics import FidMetric

    return FidMetric(weights_path=asked.fid_weights_path) if asked.fid else None
