"""Every stage of training: what it trains, what reaches what, and that it resumes."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
from torch import Tensor

from rayfill.config.run import RunConfig, check, replace
from rayfill.losses import LOSSES, SUMS
from rayfill.metrics import LpipsMetric
from rayfill.metrics.accumulate import in_8_bits
from rayfill.models import MODELS, JointModel, build_model, composite, pretrained
from rayfill.models.batch import TensorBatch
from rayfill.models.joint import differentiable_composite
from rayfill.models.segmentation.base import SegmenterOutput
from rayfill.training.recipes import Recipe, make_stage
from rayfill.training.validation import check_select_metric
from rayfill_data.errors import ConfigError, RayfillError

SIDE = 32
EDGECONNECT = {
    "model.blocks": 1,
    "model.hole_fill": "zero",
    "model.output": "direct",
    "loss.terms": "p2",
}
ALONE = {"model.name": "edgeconnect", **EDGECONNECT}
JOINT = {
    "model.name": "joint",
    "model.inpainter": "edgeconnect",
    "model.label_maps": True,
    "model.segmenter_width": 4,
    "model.segmenter_depth": 2,
    **EDGECONNECT,
}
#: name -> (stage, changes, what is trained, discriminators)
STAGES: dict[str, tuple[str, dict[str, Any], set[str], set[str]]] = {
    "a network and a discriminator": (
        "inpainting",
        {"model.name": "unet", "model.depth": 2, "loss.terms": "l1+0.1*gan"},
        {""},
        {"picture"},
    ),
    "edges": ("edges", {**ALONE, "eval.select_metric": "edge_f1"}, {"edge_generator"}, {"edges"}),
    "image": ("image", ALONE, {"image_generator"}, {"picture"}),
    "all of edgeconnect": (
        "inpainting",
        ALONE,
        {"edge_generator", "image_generator"},
        {"edges", "picture"},
    ),
    "labels": (
        "labels",
        {**JOINT, "eval.select_metric": "label_accuracy"},
        {"inpainter.label_generator"},
        {"labels"},
    ),
    "segmentation": (
        "segmentation",
        {**JOINT, "eval.select_metric": "iou"},
        {"segmenter"},
        set(),
    ),
    "inpainter of a joint model": (
        "inpainting",
        JOINT,
        {"inpainter"},
        {"edges", "labels", "picture"},
    ),
    "joint": (
        "joint",
        {**JOINT, "eval.select_metric": "removal_psnr"},
        {"segmenter", "inpainter"},
        {"edges", "labels", "picture"},
    ),
}
every_stage = pytest.mark.parametrize("name", STAGES)


def config(stage: str, **changes: Any) -> RunConfig:
    small = {
        "train.stage": stage,
        "train.discriminator_width": 4,
        "train.warmup_steps": 0,
        "train.epochs": 1,
        "model.width": 4,
    }
    return check(replace(RunConfig(), small | changes))


def recipe(stage: str, **changes: Any) -> Recipe:
    return Recipe(config(stage, **changes), device=torch.device("cpu"), total_steps=100)


def batch(seed: int = 0, *, size: int = 3) -> TensorBatch:
    """Smooth pictures with a red box, the object, pasted in."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(size, 3, 5, 5, generator=rng)
    target = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    hole = torch.zeros(size, 1, SIDE, SIDE)
    for row in range(size):
        top, left = torch.randint(2, 16, (2,), generator=rng).tolist()
        hole[row, :, top : top + 12, left : left + 10] = 1
    red = torch.tensor([0.95, 0.05, 0.05]).view(1, 3, 1, 1)
    return TensorBatch(
        image=torch.where(hole > 0, red, target),
        target=target,
        hole_mask=hole,
        sample_id=tuple(map(str, range(size))),
        labels=hole[:, 0].long(),
        target_labels=torch.zeros(size, SIDE, SIDE, dtype=torch.int64),
    )


def tensors(trained: Recipe) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in trained.kept_model().named_parameters()}


@every_stage
def test_a_stage_trains_its_part_alone_and_resumes_bit_for_bit(name: str) -> None:
    stage, changes, parts, judges = STAGES[name]
    changes = {"train.ema_decay": 0.0, **changes}
    first = recipe(stage, **changes)
    before = tensors(first)
    result = first.step(batch(0))
    assert result.applied
    assert {term.partition("/")[0] for term in result.terms if "/" in term} == judges
    changed = {key for key, value in tensors(first).items() if not torch.equal(value, before[key])}
    assert changed
    assert {part for part in parts if any(key.startswith(part) for key in changed)} == parts
    assert all(key.startswith(tuple(parts)) for key in changed)

    again = recipe(stage, **changes)
    again.restore(
        {key: {k: v.clone() for k, v in value.items()} for key, value in first.weights().items()},
        first.state(),
    )
    expected, got = first.step(batch(1)).terms, again.step(batch(1)).terms
    assert {k: float(v) for k, v in expected.items()} == {k: float(v) for k, v in got.items()}
    assert set(first.weights()) >= {f"discriminator-{judge}" for judge in judges}


@every_stage
def test_a_stage_measures_what_ranks_it(name: str) -> None:
    stage, changes, _, _ = STAGES[name]
    settings = config(stage, **changes)
    scores = recipe(stage, **changes).validate([batch(3), batch(4, size=1)])
    assert 0 <= scores[settings.eval.select_metric] < 100


@pytest.mark.parametrize("name", sorted(set(STAGES) - {"labels"}))  # which reads no colours
def test_a_batch_that_is_not_finite_changes_nothing(name: str) -> None:
    stage, changes, _, _ = STAGES[name]
    trained = recipe(stage, **{"train.ema_decay": 0.0, **changes})
    good = batch(0)
    bad = TensorBatch(
        image=torch.full_like(good.image, torch.nan),
        target=torch.full_like(good.target, torch.nan),
        hole_mask=good.hole_mask,
        sample_id=good.sample_id,
        labels=good.labels,
        target_labels=good.target_labels,
    )
    before = tensors(trained)
    assert not trained.step(bad).applied
    after = tensors(trained)
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("inpainter", sorted(set(MODELS) - {"joint"}))
def test_picture_losses_reach_the_segmenter_through_any_inpainter(inpainter: str) -> None:
    trained = recipe(
        "joint",
        **{
            "model.name": "joint",
            "model.inpainter": inpainter,
            "model.segmenter_width": 4,
            "loss.mask_expansion": 0.0,
            "loss.segmentation": 0.0,
            "eval.select_metric": "removal_psnr",
        },
    )
    output = trained._stage(batch(1))
    total, terms = trained._losses(output, batch(1))
    assert set(terms) >= {"l1"}
    total.backward()
    model = trained._network
    assert isinstance(model, JointModel)
    gradients = [p.grad for p in model.segmenter.parameters() if p.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0


class Drawn(torch.nn.Module):
    """A segmenter that found a given mask, of which it is about as sure everywhere."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        logit = torch.where(mask > 0, 1.0, -1.0)
        self.logits = torch.nn.Parameter(torch.cat([torch.zeros_like(logit), logit], dim=1))

    def forward(self, image: Tensor, labels: Tensor | None = None) -> SegmenterOutput:
        return SegmenterOutput(logits=self.logits)


class AlmostTrue(torch.nn.Module):
    """An inpainter whose answer is the truth, but for a little."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) - 0.5
        self.answer = target + 0.02 * noise

    def forward(self, image: Tensor, hole_mask: Tensor) -> Tensor:
        return self.answer


#: What a picture loss says of a mask alone; tv and valid_l1 look past the object on purpose.
SAYS_WHERE = sorted(
    {*LOSSES, *SUMS, "l1+0.1*gan"}
    - {name for name, spec in LOSSES.items() if spec.needs_features}
    - {"tv", "valid_l1", "liu"}
)


@pytest.mark.parametrize("terms", SAYS_WHERE)
def test_a_mask_that_is_too_small_is_pushed_outward_by_every_picture_loss(terms: str) -> None:
    samples = batch(5)
    trained = recipe(
        "joint",
        **{
            "model.name": "joint",
            "model.inpainter": "unet",
            "loss.terms": terms,
            "loss.mask_expansion": 0.0,
            "loss.segmentation": 0.0,
            "eval.select_metric": "removal_psnr",
        },
    )
    model = trained._network
    assert isinstance(model, JointModel)
    too_small = -torch.nn.functional.max_pool2d(-samples.hole_mask, 5, stride=1, padding=2)
    model.segmenter = Drawn(too_small)
    model.inpainter = AlmostTrue(samples.target)
    total, _ = trained._losses(trained._stage(samples), samples)
    total.backward()
    gradient = model.segmenter.logits.grad
    assert gradient is not None
    left_out = ((samples.hole_mask - too_small)[:, 0] > 0) & (gradient[:, 1] != 0)
    assert left_out.sum() > 0.8 * (samples.hole_mask - too_small).sum()
    push = gradient[:, 1][left_out]  # negative: a step raises the probability
    assert -push.sum() > 0.8 * push.abs().sum()  # a discriminator that knows nothing pulls a little


def test_the_hole_that_is_filled_is_the_one_the_gradient_flows_through() -> None:
    samples = batch(2)
    model = recipe("joint", **{**JOINT, "eval.select_metric": "removal_psnr"})._network
    assert isinstance(model, JointModel)
    found = model.find(samples.image, object_mask=samples.hole_mask)
    assert set(found.hole_mask.detach().unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(found.hole_mask.detach(), found.selected.hard)
    prediction = model.fill(samples.image, found.hole_mask, found.labelled.logits.softmax(dim=1))
    mixed = differentiable_composite(prediction, samples.image, found.hole_mask)
    removed = model.eval().remove(samples.image, object_mask=samples.hole_mask)
    assert torch.equal(
        removed.hole_mask[removed.hole_mask == 0],
        torch.zeros(0).new_zeros(int((removed.hole_mask == 0).sum())),
    )
    outside = (found.selected.hard == 0).expand_as(mixed)
    assert torch.equal(mixed.detach()[outside], samples.image[outside])
    soft = found.selected.soft
    (gradient,) = torch.autograd.grad(mixed.sum(), soft, retain_graph=True)
    (straight,) = torch.autograd.grad(mixed.sum(), found.hole_mask)
    assert torch.equal(gradient, straight)


def test_joint_training_learns_to_find_and_a_larger_alpha_finds_more() -> None:
    """The object is red: a minute network sees it in a hundred steps."""
    growth = {}
    for alpha in (0.0, 0.1):
        trained = recipe(
            "joint",
            **{
                "model.name": "joint",
                "model.inpainter": "unet",
                "model.depth": 1,
                "model.segmenter_width": 6,
                "model.segmenter_depth": 2,
                "loss.alpha": alpha,
                "eval.select_metric": "removal_psnr",
                "train.schedule": "constant",
                "train.learning_rate": 0.01,
                "train.ema_decay": 0.0,
                "train.grad_clip_norm": 0.0,
            },
        )
        for step in range(120):
            trained.step(batch(step, size=8))
        samples = batch(1000, size=8)
        model = trained.kept_model().eval()
        assert isinstance(model, JointModel)
        with torch.inference_mode():
            removal = model.remove(samples.image, object_mask=samples.hole_mask)
        covered = (removal.hole_mask * samples.hole_mask).sum() / samples.hole_mask.sum()
        assert covered > 0.9
        growth[alpha] = float(removal.hole_mask.sum() / samples.hole_mask.sum())
    assert 0.9 < growth[0.0] < growth[0.1]


def test_a_hole_without_an_object_asks_for_an_empty_mask() -> None:
    samples = batch(5)
    assert samples.labels is not None
    labels = samples.labels.clone()
    labels[0] = 0
    mixed = dataclasses.replace(samples, image=samples.target, labels=labels)
    assert [bool(mask.any()) for mask in mixed.object_mask] == [False, True, True]
    trained = recipe(
        "joint", **{**JOINT, "loss.segmentation": 0.0, "eval.select_metric": "removal_psnr"}
    )
    only = dataclasses.replace(
        mixed,
        image=mixed.image[:1],
        target=mixed.target[:1],
        hole_mask=mixed.hole_mask[:1],
        labels=labels[:1],
        target_labels=samples.target_labels[:1],
        sample_id=("a",),
    )
    output = trained._stage(only)
    assert not output.painted.hole_mask.any()
    assert torch.equal(output.painted.prediction, only.image)
    # Far outside everywhere: the loss is the mask's own mean, so all of it must go.
    soft = trained._network.segment(only.image).softmax(dim=1)[:, 1].mean()
    expected = (1 - trained_alpha(trained)) * soft
    assert torch.isclose(output.terms["mask_expansion"].value, expected)


def trained_alpha(trained: Recipe) -> float:
    return float(trained._stage._loss.alpha)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train.stage": "joint"}, "needs model.name joint"),
        ({"train.stage": "edges"}, "one of edgeconnect"),
        ({"train.stage": "labels", "model.name": "edgeconnect"}, "label_maps"),
        ({"model.name": "joint", "model.inpainter": "unett"}, "Did you mean 'unet'"),
        ({"model.name": "joint", "model.inpainter": "joint"}, "inpainter"),
        ({"model.name": "joint", "model.segmenter": "segmentation_net"}, "segmentation_unet"),
        ({"loss.alpha": 1.0}, r"in \[0, 1\)"),
        ({"loss.terms": "gan"}, "do not say what to paint"),
        ({"eval.select_metric": "iou"}, "stage 'inpainting' measures hole_psnr"),
        ({"model.name": "unet", "model.blocks": 3}, "no such option"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check(replace(RunConfig(), changes))


def test_what_a_network_was_built_with_frozen_stays_frozen() -> None:
    """As the first layers of Panoptic FPN are, which takes minutes here."""
    settings = config("joint", **{**JOINT, "eval.select_metric": "removal_psnr"})
    network = build_model("joint", **settings.model.options())
    assert isinstance(network, JointModel)
    stem = next(network.segmenter.parameters())
    stem.requires_grad_(False)
    stage = make_stage(network, config=settings)
    assert [p for p in stage.parameters() if not p.requires_grad] == [stem]


@pytest.fixture
def lpips_weights(tmp_path: Path) -> str:
    """Arbitrary weights of the whole LPIPS network."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by the arguments of old
        network = lpips.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False)
    torch.save(network.state_dict(), tmp_path / "lpips.pth")
    return str(tmp_path / "lpips.pth")


@pytest.mark.parametrize("stage", ["inpainting", "joint"])
def test_lpips_is_validated_where_runs_are_ranked_by_it(stage: str, lpips_weights: str) -> None:
    metric, own = ("removal_lpips", JOINT) if stage == "joint" else ("lpips", {"model.depth": 2})
    ranked = {"eval.select_metric": metric, "eval.lpips_weights_path": lpips_weights}
    made = recipe(stage, **{**own, **ranked})
    check_select_metric([config(stage, **{**own, **ranked})])
    batches = [batch(3), batch(4, size=1)]
    scores = made.validate(batches)
    distance = LpipsMetric("squeeze", weights_path=lpips_weights)
    model, expected = made.kept_model().eval(), []
    with torch.inference_mode():
        for one in batches:
            if stage == "joint":
                removal = model.remove(one.image, object_mask=one.object_mask)
                filled = in_8_bits(removal.composite)
            else:
                prediction = in_8_bits(made.predict(one.image, one.hole_mask))
                filled = composite(prediction, one.image, one.hole_mask)
            expected += distance(filled, one.target).tolist()
    assert scores[metric] == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_lpips_without_weights_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "_reachable", lambda _: False)
    ranked = config("inpainting", **{"eval.select_metric": "lpips"})
    with pytest.raises(ConfigError, match=r"'lpips', and .* not in torch's cache .* weights_path"):
        check_select_metric([config("inpainting"), ranked])
    with pytest.raises(RayfillError, match="No LPIPS with squeeze"):  # nor later, on a worker
        Recipe(ranked, device=torch.device("cpu"), total_steps=1)
    check_select_metric([config("inpainting", **{"eval.select_metric": "coherence"})])
