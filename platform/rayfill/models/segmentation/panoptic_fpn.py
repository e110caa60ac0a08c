"""Panoptic FPN: Mask R-CNN for objects and a semantic head on the same pyramid for the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayfill.models.fills.filled import pad_edge
from rayfill.models.options import Width
from rayfill.models.pretrained import published_state
from rayfill.models.segmentation.base import (
    Segmenter,
    SegmenterOptions,
    SegmenterOutput,
    Segments,
    check_segmenter_inputs,
)
from rayfill.models.segmentation.instances import (
    detection_target,
    evidence,
    label_instances,
    paste_masks,
)
from rayfill.models.segmentation.losses import label_cross_entropy
from rayfill_data.checks import Bounds
from rayfill_data.errors import RayfillError

_DETECTOR = "maskrcnn_resnet50_fpn"
_PYRAMID_CHANNELS = 256
_LONGEST_SIDE = 1333
_MAX_INSTANCES = 20
#: Groups of the semantic head's GroupNorm, or fewer where the width is smaller.
_GROUPS = 32

#: torchvision's name of a loss -> ours.
_LOSSES = {
    "loss_objectness": "proposal_score",
    "loss_rpn_box_reg": "proposal_box",
    "loss_classifier": "object_label",
    "loss_box_reg": "object_box",
    "loss_mask": "object_mask",
}


@dataclass(frozen=True, kw_only=True)
class PanopticFPNConfig(SegmenterOptions):
    """Options of Panoptic FPN."""

    width: Width = 128
    """Channels of the semantic head."""

    weights: str = "coco"
    """Of the detector: coco (torchvision's, downloaded once), none (random) or a local file."""

    allow_download: bool = True
    """Whether torchvision may download what is not in torch's cache."""

    min_side: Annotated[int, Bounds(ge=0, le=_LONGEST_SIDE)] = 800
    """Shorter side, in pixels, that photos are resized to, 0 leaves them; weights expect 800."""

    @property
    def stride(self) -> int:
        """Multiple that both sides of a resized image are padded to, in pixels."""
        return 32

    def relations(self) -> Iterator[str]:
        """Yield what is wrong with where the weights come from."""
        if not self.weights:
            yield "weights is empty; allowed: coco, none, or the path of a state dict."


class SemanticHead(nn.Module):
    """Pyramid maps at 1/4 to 1/32 -> logits at 1/4: upsampled, summed, one 1x1 convolution.

    Each doubling is a 3x3 convolution, GroupNorm, ReLU and bilinear upsampling; the map at 1/4 has
    the convolution alone. The last layer starts at 0, so that an untrained head says nothing.

    Source: Kirillov et al. 2019 (arXiv:1901.02446), figure 3.
    """

    def __init__(self, width: int, *, labels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_doublings(level, width=width) for level in range(4))
        self.predictor = nn.Conv2d(width, labels, kernel_size=1)
        nn.init.zeros_(self.predictor.weight)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return (B, K, H/4, W/4) for four maps (B, 256, H/4, W/4) to (B, 256, H/32, W/32)."""
        maps = [level(x) for level, x in zip(self.levels, pyramid, strict=True)]
        logits: Tensor = self.predictor(torch.stack(maps).sum(dim=0))
        return logits


def _doublings(count: int, *, width: int) -> nn.Sequential:
    groups = next(g for g in range(min(_GROUPS, width), 0, -1) if width % g == 0)
    layers: list[nn.Module] = []
    for step in range(max(1, count)):
        channels = _PYRAMID_CHANNELS if step == 0 else width
        layers += [
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(inplace=True),
        ]
        if count:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
    return nn.Sequential(*layers)


class PanopticFPN(Segmenter):
    """Objects by torchvision's Mask R-CNN, everything by a semantic head, one set of logits.

    ``logits[k] = semantic[k] + evidence[k]``: labels that bear the name of a COCO category have the
    log odds of the objects seen added (:func:`.evidence`), the others
    the semantic head alone. With two labels and an untrained head, ``softmax`` is the score times
    mask of the surest object. Losses: the five of Mask R-CNN and ``semantic``, the cross entropy of
    the semantic head; their plain sum is ``L_PS``. The proposals to train on are drawn from torch's
    global generator. Objects of the truth are the connected regions of the label map, unless given.
    The pyramid runs in the ambient precision, the heads in float32.

    Batch statistics, the first convolution and the first stage are frozen, as torchvision does with
    pretrained weights; trained from random weights it will not get far.

    Source: Kirillov et al. 2019 (arXiv:1901.02446); He et al. 2017 (arXiv:1703.06870). Deviations:
    the head labels objects too instead of one "other", and maps are added instead of cut by rank,
    so that a mask can grow beyond its box and every part has a gradient.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PanopticFPNConfig, *, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.config = config
        self.detector, categories = _mask_rcnn()
        self.classes = {
            index: categories.index(label)
            for index, label in enumerate(self.labels)
            if index and label in categories
        }
        self.semantic = SemanticHead(config.width, labels=len(self.labels))
        # What torchvision's weights were trained on.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def load_pretrained(self) -> None:
        """Take over the detector's weights that the options name.

        Raises:
            RayfillError: weights that cannot be had, or a file of another network.
        """
        source = self.config.weights
        if source == "none":
            return
        try:
            state = published_state(
                _DETECTOR,
                weights_path=None if source == "coco" else source,
                allow_download=self.config.allow_download,
            )
        except RayfillError as error:
            raise RayfillError(
                f"{error} Here it is the option weights, now {source!r}; 'none' starts from random "
                "ones instead."
            ) from error
        try:
            # Not compared by name first: torchvision itself renames what older versions saved.
            self.detector.load_state_dict(state)
        except RuntimeError as error:
            raise RayfillError(
                f"{source}: not the weights of torchvision's {_DETECTOR}. Give the file that "
                "belongs to it, 'coco' to download it, or a whole segmenter as a bundle."
            ) from error

    def forward(
        self,
        image: Tensor,
        labels: Tensor | None = None,
        *,
        instances: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> SegmenterOutput:
        """Return logits and segments and, with labels, the losses of detector and semantic head.

        Args:
            image: (B, 3, H, W) float32 RGB in [0, 1].
            labels: (B, H, W) int64, indices into ``labels``; 255 is not counted by the semantic
                head, and background to the detector.
            instances: per photo the true objects, (N, H, W) bool and (N,) int64 labels; None takes
                the connected regions of ``labels``.

        Raises:
            RayfillError: other shapes.
        """
        check_segmenter_inputs(image, labels)
        shown = self._resize(image)
        padded = pad_edge((shown - self.mean) / self.std, self.config.stride)
        pyramid = self.detector.backbone(padded)
        pyramid = OrderedDict((name, level.float()) for name, level in pyramid.items())
        with torch.autocast(image.device.type, enabled=False):
            coarse = self.semantic(list(pyramid.values())[:4])
            semantic = _enlarge(coarse, shown=shown, size=image.shape[-2:])
            losses = {}
            targets = None
            if labels is not None:
                losses["semantic"] = label_cross_entropy(semantic, labels)
                if instances is None:
                    instances = [label_instances(row, things=tuple(self.classes)) for row in labels]
                targets = [self._target(*row, shown=shown) for row in instances]
            detections, found = self._detect(pyramid, padded, targets, size=shown.shape[-2:])
            segments = tuple(self._segments(row, shown=shown, image=image) for row in detections)
            logits = semantic + torch.stack([self._evidence(row) for row in segments])
        return SegmenterOutput(logits=logits, losses=losses | found, segments=segments)

    def segments(self, image: Tensor) -> tuple[Segments, ...]:
        """Return the objects seen in each photo of ``image`` (B, 3, H, W)."""
        output: SegmenterOutput = self(image)
        return output.segments or ()

    def _resize(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        scale = self.config.min_side / min(height, width) if self.config.min_side else 1.0
        scale = min(scale, _LONGEST_SIDE / max(height, width))
        size = max(1, round(scale * height)), max(1, round(scale * width))
        if size == (height, width):
            return image
        return F.interpolate(image, size=size, mode="bilinear", antialias=scale < 1)

    def _target(self, masks: Tensor, labels: Tensor, *, shown: Tensor) -> dict[str, Tensor]:
        classes = labels.new_tensor([self.classes[label] for label in labels.tolist()])
        height, width = shown.shape[-2:]
        return detection_target(masks, classes, size=(height, width))

    def _detect(
        self,
        pyramid: OrderedDict[str, Tensor],
        padded: Tensor,
        targets: list[dict[str, Tensor]] | None,
        *,
        size: Sequence[int],
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return what is seen in photos of ``size`` before padding, and losses given targets."""
        from torchvision.models.detection.image_list import ImageList

        rpn, heads = self.detector.rpn, self.detector.roi_heads
        sizes = [(size[0], size[1])] * len(padded)
        with _mode(rpn, training=targets is not None):
            proposals, losses = rpn(ImageList(padded, sizes), pyramid, targets)
        if targets is not None:
            with _mode(heads, training=True):
                losses = losses | heads(pyramid, proposals, sizes, targets)[1]
        with _mode(heads, training=False):
            detections, _ = heads(pyramid, proposals, sizes)
        return detections, {_LOSSES[name]: value for name, value in losses.items()}

    def _segments(self, detections: dict[str, Tensor], *, shown: Tensor, image: Tensor) -> Segments:
        """Keep the surest objects that bear one of our labels, on the photo's own pixels."""
        label_of = {category: label for label, category in self.classes.items()}
        mine = [label_of.get(category, 0) for category in detections["labels"].tolist()]
        labels = detections["labels"].new_tensor(mine)
        kept = labels.nonzero()[:_MAX_INSTANCES, 0]  # torchvision sorts by score
        height, width = image.shape[-2:]
        ratio = height / shown.shape[-2], width / shown.shape[-1]
        boxes = detections["boxes"][kept]
        boxes = boxes * boxes.new_tensor([ratio[1], ratio[0], ratio[1], ratio[0]])
        masks = paste_masks(detections["masks"][kept, 0], boxes, size=(height, width))
        return Segments(masks=masks, labels=labels[kept], scores=detections["scores"][kept])

    def _evidence(self, seen: Segments) -> Tensor:
        """Return (K, H, W): log odds for labels of objects, 0 for the others."""
        zero = seen.masks.new_zeros(seen.masks.shape[1:])
        rows = [
            evidence(seen.masks, seen.labels, seen.scores, label=index)
            if index in self.classes
            else zero
            for index in range(len(self.labels))
        ]
        return torch.stack(rows)


def _mask_rcnn() -> tuple[Any, list[str]]:
    """Return torchvision's network as its COCO weights fit it, and the names of its 91 classes."""
    # Imported late: it takes seconds.
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    categories = detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    # Anchors are no buffers: where a bundle builds without memory, these need some all the same.
    with torch.device("cpu"):
        anchors = AnchorGenerator(
            sizes=tuple((size,) for size in (32, 64, 128, 256, 512)),
            aspect_ratios=((0.5, 1.0, 2.0),) * 5,
        )
    network = detection.MaskRCNN(
        backbone, num_classes=len(categories), rpn_anchor_generator=anchors
    )
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # the published weights already contain it
    return network, list(categories)


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Let one of torchvision's parts train or answer; it has no layer that behaves otherwise.

    Nothing is written where it is in that mode already, so that threads may share a network.
    """
    before = module.training
    if before != training:
        module.training = training
    try:
        yield
    finally:
        if before != training:
            module.training = before


def _enlarge(coarse: Tensor, *, shown: Tensor, size: Sequence[int]) -> Tensor:
    """Return logits at 1/4 of the padded photo as logits of the photo itself."""
    height, width = shown.shape[-2:]
    fine = F.interpolate(coarse, scale_factor=4, mode="bilinear")[..., :height, :width]
    if (height, width) == tuple(size):
        return fine
    return F.interpolate(fine, size=tuple(size), mode="bilinear", antialias=size[0] < height)
