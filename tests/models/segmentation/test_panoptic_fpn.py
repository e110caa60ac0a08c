"""Panoptic FPN: its weights or a refusal, its parts against torchvision's own, its instances."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
import torchvision
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import masks_to_boxes

from rayfill.models import pretrained
from rayfill.models.segmentation import build_segmenter, segmenter_architecture, soft_mask
from rayfill.models.segmentation.instances import (
    detection_target,
    evidence,
    label_instances,
    paste_masks,
)
from rayfill_data.errors import RayfillError

LABELS = ("nothing", "person", "sky", "dog")
#: What torchvision's documentation says of maskrcnn_resnet50_fpn with COCO_V1.
PUBLISHED_PARAMETERS = 44_401_393


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No weights in torch's cache and no way to download: as on a machine without a network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "_reachable", lambda _: False)


def few_proposals(segmenter):
    """The heads look at every proposal: with a thousand, a test takes ten times as long."""
    segmenter.detector.rpn._post_nms_top_n = {"training": 50, "testing": 50}
    return segmenter


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return few_proposals(
        build_segmenter("panoptic_fpn", labels=LABELS, weights="none", min_side=0, width=16)
    )


@pytest.fixture(scope="module")
def detector_file(network, tmp_path_factory):
    """A locally saved state dict in torchvision's form; its weights are arbitrary."""
    path = tmp_path_factory.mktemp("weights") / "maskrcnn.pth"
    torch.save(network.detector.state_dict(), path)
    return path


def as_published(state):
    """Return a state dict with the names of 2019, which the published file still has."""
    renamed = OrderedDict()
    for key, value in state.items():
        old = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for block in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                old = old.replace(f"fpn.{block}.{level}.0.", f"fpn.{block}.{level}.")
        for layer in range(4):
            old = old.replace(f"mask_head.{layer}.0.", f"mask_head.mask_fcn{layer + 1}.")
        renamed[old] = value
    return renamed


def test_it_is_torchvisions_network(network):
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    assert sum(p.numel() for p in network.detector.parameters()) == PUBLISHED_PARAMETERS
    ours = {key: value.shape for key, value in network.detector.state_dict().items()}
    # Frozen statistics do not count their batches.
    wanted = {
        key: value.shape
        for key, value in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert ours == wanted
    frozen = [name for name, p in network.detector.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith(("backbone.body.conv1", "backbone.body.layer1")) for name in frozen)
    assert network.classes == {1: 1, 3: 18}  # COCO's own numbers; it has no sky


def test_without_weights_it_is_refused_with_how_to_get_them(tmp_path):
    with pytest.raises(RayfillError) as caught:
        build_segmenter("panoptic_fpn", labels=LABELS)
    message = str(caught.value)
    assert "No weights for maskrcnn_resnet50_fpn" in message
    assert "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth" in message
    assert "'none' starts from random ones" in message
    with pytest.raises(RayfillError, match="downloading is not allowed"):
        build_segmenter("panoptic_fpn", labels=LABELS, allow_download=False)
    with pytest.raises(RayfillError, match=r"there is no file .*none\.pth"):
        build_segmenter("panoptic_fpn", labels=LABELS, weights=str(tmp_path / "none.pth"))


@pytest.mark.parametrize("form", [OrderedDict, as_published])
def test_a_local_file_is_loaded_bit_for_bit(network, detector_file, form, tmp_path):
    state = torch.load(detector_file, weights_only=True)
    assert form(state).keys() != state.keys() or form is OrderedDict
    torch.save(form(state), tmp_path / "weights.pth")
    torch.manual_seed(1)
    loaded = build_segmenter("panoptic_fpn", labels=LABELS, weights=str(tmp_path / "weights.pth"))
    theirs = loaded.detector.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in state.items())


def test_a_file_of_another_network_is_refused(detector_file, tmp_path):
    state = torch.load(detector_file, weights_only=True)
    state.popitem()
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(RayfillError, match="not the weights of torchvision's maskrcnn_resnet50"):
        build_segmenter("panoptic_fpn", labels=LABELS, weights=str(tmp_path / "short.pth"))
    (tmp_path / "bad.pth").write_bytes(b"not a state dict")
    with pytest.raises(RayfillError, match="cannot be read as a PyTorch state dict"):
        build_segmenter("panoptic_fpn", labels=LABELS, weights=str(tmp_path / "bad.pth"))


def test_an_architecture_is_built_without_weights_and_without_memory():
    with torch.device("meta"):
        skeleton = segmenter_architecture("panoptic_fpn", labels=LABELS)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    anchors = skeleton.detector.rpn.anchor_generator.cell_anchors
    assert not any(anchor.is_meta for anchor in anchors)


def test_detections_equal_torchvisions_whole_network(network):
    """The same photo through torchvision's own forward: the same objects, in the same places."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 96)
    heads = network.detector.roi_heads
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        bias = heads.box_predictor.cls_score.bias.clone()
        heads.box_predictor.cls_score.bias[1] = 8.0
        patch.setattr(network.detector.transform, "min_size", (64,))
        (theirs,) = network.detector.eval()(list(image))
        (ours,) = network.eval().segments(image)
        heads.box_predictor.cls_score.bias.copy_(bias)
    persons = theirs["labels"] == 1
    assert persons.sum() >= 3
    count = len(ours.scores)
    torch.testing.assert_close(ours.scores, theirs["scores"][persons][:count])
    assert ours.labels.eq(1).all()
    for mask, whole in zip(ours.masks, theirs["masks"][persons][:count, 0], strict=True):
        # torchvision rounds boxes to whole pixels.
        assert (mask - whole).abs().mean() < 0.05


def test_pasting_equals_torchvisions_up_to_rounding():
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    bowls = [(1.5 - torch.hypot(x - cx, y - 14) / 9).clamp(0, 1) for cx in (10, 14, 18)]
    masks = torch.stack(bowls)[:, None]
    boxes = torch.tensor(
        [[10.0, 5.0, 66.0, 61.0], [-8.0, 20.0, 20.0, 76.0], [60.0, 3.0, 90.0, 90.0]]
    )
    ours = paste_masks(masks[:, 0], boxes, size=(80, 100))
    theirs = paste_masks_in_image(masks, boxes, (80, 100))[:, 0]
    assert ours.shape == theirs.shape == (3, 80, 100)
    for mine, other in zip(ours > 0.5, theirs > 0.5, strict=True):
        assert (mine & other).sum() / (mine | other).sum() > 0.9
    assert ours[0, :4].eq(0).all()
    assert ours[0, :, :9].eq(0).all()


def test_a_full_mask_covers_its_box_exactly():
    pasted = paste_masks(
        torch.ones(1, 28, 28), torch.tensor([[2.0, 3.0, 12.0, 9.0]]), size=(12, 16)
    )
    wanted = torch.zeros(12, 16)
    wanted[3:9, 2:12] = 1
    assert torch.equal((pasted[0] > 0.5).float(), wanted)
    assert paste_masks(torch.ones(0, 28, 28), torch.ones(0, 4), size=(5, 6)).shape == (0, 5, 6)


def test_evidence_is_the_log_odds_of_the_surest_object():
    masks = torch.rand(3, 5, 6, requires_grad=True)
    labels, scores = torch.tensor([1, 3, 1]), torch.tensor([0.9, 0.8, 0.5])
    likely = torch.maximum(0.9 * masks[0], 0.5 * masks[2])
    assert torch.allclose(
        evidence(masks, labels, scores, label=1).sigmoid(), 0.01 + 0.98 * likely, atol=1e-6
    )
    none = evidence(masks, labels, scores, label=2)
    assert none.unique().item() == pytest.approx(math.log(0.01 / 0.99), rel=1e-4)
    evidence(masks, labels, scores, label=1).sum().backward()
    assert masks.grad[1].eq(0).all()
    assert torch.equal((masks.grad != 0).sum(dim=0), torch.ones(5, 6, dtype=torch.int64))


def test_an_untrained_head_leaves_score_times_mask(network):
    heads = network.detector.roi_heads
    two = build_segmenter("panoptic_fpn", labels=LABELS[:2], weights="none", min_side=0)
    two.detector.load_state_dict(network.detector.state_dict())
    with torch.no_grad():
        two.detector.roi_heads.box_predictor.cls_score.bias[1] = 8.0
        output = two.eval()(torch.rand(1, 3, 64, 64))
    (seen,) = output.segments
    assert len(seen.scores) > 1
    likely = (seen.scores[:, None, None] * seen.masks).amax(dim=0)
    person = soft_mask(output.logits, label=1)[0, 0]
    torch.testing.assert_close(person, 0.01 + 0.98 * likely, atol=1e-5, rtol=1e-4)
    assert not torch.equal(
        heads.box_predictor.cls_score.bias, two.detector.roi_heads.box_predictor.cls_score.bias
    )


def test_regions_of_a_label_map_are_its_objects():
    labels = torch.zeros(40, 50, dtype=torch.int64)
    labels[2:12, 3:9] = 1
    labels[12:20, 9:15] = 1  # touches by a corner: the same object
    labels[30:36, 20:30] = 1
    labels[25:28, 40:45] = 3  # 15 pixels: too small
    labels[:, 46:] = 2  # not a thing
    labels[0, 0] = 255
    masks, kinds = label_instances(labels, things=(1, 3))
    assert kinds.tolist() == [1, 1]
    assert masks.flatten(1).sum(dim=1).tolist() == [60 + 48, 60]
    assert torch.equal(masks.any(dim=0), labels == 1)
    none, nothing = label_instances(labels, things=())
    assert none.shape == (0, 40, 50)
    assert nothing.shape == (0,)


def test_targets_are_boxes_around_masks_at_the_size_seen():
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[0, 2:9, 4:25] = True
    masks[1, 5, 7] = True
    masks[2, 10:, 20:] = True
    classes = torch.tensor([1, 18, 1])
    same = detection_target(masks, classes, size=(20, 30))
    theirs = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # theirs ends on the last pixel
    assert torch.equal(same["boxes"], theirs)
    double = detection_target(masks, classes, size=(40, 60))
    assert torch.equal(double["boxes"], 2 * theirs)
    assert double["masks"].shape == (3, 40, 60)
    half = detection_target(masks, classes, size=(10, 15))
    assert len(half["boxes"]) in (2, 3)
    tiny = detection_target(masks[1:2], classes[1:2], size=(2, 3))
    assert tiny["boxes"].shape == (0, 4)
    assert tiny["labels"].shape == (0,)
    empty = detection_target(masks[:0], classes[:0], size=(40, 60))
    assert empty["boxes"].shape == (0, 4)


def test_instances_that_are_given_are_learned_instead_of_regions(network):
    image = torch.rand(1, 3, 64, 64)
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    labels[:, 10:50, 10:50] = 1
    two = torch.zeros(2, 64, 64, dtype=torch.bool)
    two[0, 10:50, 10:30], two[1, 10:50, 30:50] = True, True
    whole = (labels[0] == 1)[None]
    network.eval()
    losses = []
    for instances in (None, [(whole, torch.tensor([1]))], [(two, torch.tensor([1, 1]))]):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(network(image, labels, instances=instances).losses)
    assert losses[0] == losses[1]
    assert losses[0]["object_box"] != losses[2]["object_box"]
    assert losses[0]["semantic"] == losses[2]["semantic"]


def test_photos_are_shown_at_the_size_that_weights_expect(network):
    torch.manual_seed(0)
    larger = few_proposals(
        build_segmenter("panoptic_fpn", labels=LABELS, weights="none", min_side=96, width=16)
    )
    shown = []
    larger.detector.backbone.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    image = torch.rand(1, 3, 40, 60)
    labels = torch.zeros(1, 40, 60, dtype=torch.int64)
    labels[:, 5:30, 8:40] = 1
    with torch.no_grad():
        output = larger.eval()(image, labels)
        larger.segment(torch.rand(1, 3, 20, 500))
    assert output.logits.shape == (1, 4, 40, 60)
    assert [x.shape[2:] for x in shown] == [(96, 160), (64, 1344)]  # multiples of 32 above


@pytest.mark.gpu
def test_it_runs_on_a_gpu_in_half_precision(network):
    on_gpu = build_segmenter("panoptic_fpn", labels=LABELS, weights="none", min_side=0).cuda()
    image = torch.rand(2, 3, 64, 64).cuda()
    labels = torch.zeros(2, 64, 64, dtype=torch.int64).cuda()
    labels[:, 10:50, 10:50] = 1
    with torch.autocast("cuda", torch.bfloat16):
        output = on_gpu(image, labels)
    sum(output.losses.values()).backward()
    assert output.logits.dtype == torch.float32
    assert output.logits.isfinite().all()
