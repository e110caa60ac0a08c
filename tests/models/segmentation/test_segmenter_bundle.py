"""Bundles of segmenters: as strict as those of inpainters, and never taken for one."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from rayfill.models import build_model
from rayfill.models.segmentation import build_segmenter
from rayfill.runs.bundle import BundleError, load_bundle, load_segmenter_bundle, save_bundle
from rayfill_data.errors import ConfigError

CONFIG = {"labels": ["nothing", "person"], "width": 4, "depth": 2}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    segmenter = build_segmenter("segmentation_unet", **CONFIG)
    path = tmp_path / "segmenter"
    save_bundle(
        path,
        model=segmenter,
        name="segmentation_unet",
        config=CONFIG,
        extra={"iou": 0.5},
        kind="segmenter",
    )
    return segmenter, path


def edit_config(path, change):
    """Change the configuration and make the manifest agree with it again."""
    document = json.loads((path / "config.json").read_text())
    change(document)
    data = json.dumps(document).encode()
    (path / "config.json").write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["config.json"] = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_round_trip_is_bit_for_bit(saved):
    segmenter, path = saved
    loaded = load_segmenter_bundle(path)
    assert (loaded.name, loaded.config, loaded.extra) == (
        "segmentation_unet",
        CONFIG,
        {"iou": 0.5},
    )
    assert loaded.model.labels == ("nothing", "person")
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(loaded.model.segment(image), segmenter.eval().segment(image))


def test_panoptic_fpn_is_loaded_without_asking_for_published_weights(tmp_path):
    torch.manual_seed(0)
    options = {"labels": ["nothing", "person"], "min_side": 0, "width": 16}
    segmenter = build_segmenter("panoptic_fpn", weights="none", **options)
    segmenter.detector.rpn._post_nms_top_n = {"training": 8, "testing": 8}
    path = tmp_path / "panoptic"
    # As one that started from COCO's weights would be saved.
    config = {**options, "weights": "coco"}
    save_bundle(path, model=segmenter, name="panoptic_fpn", config=config, kind="segmenter")
    loaded = load_segmenter_bundle(path).model
    loaded.detector.rpn._post_nms_top_n = {"training": 8, "testing": 8}
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.segment(image), segmenter.eval().segment(image))


def test_kinds_are_not_mixed_up(saved, tmp_path):
    with pytest.raises(BundleError, match="holds a network of kind 'segmenter', not 'inpainter'"):
        load_bundle(saved[1])
    config = {"width": 2, "depth": 2}
    model = build_model("unet", **config)
    save_bundle(tmp_path / "unet", model=model, name="unet", config=config)
    with pytest.raises(BundleError, match="kind 'inpainter'"):
        load_segmenter_bundle(tmp_path / "unet")


def test_a_bundle_of_no_kind_is_an_inpainters(tmp_path):
    config = {"width": 2, "depth": 2}
    save_bundle(tmp_path / "old", model=build_model("unet", **config), name="unet", config=config)
    edit_config(tmp_path / "old", lambda document: document.pop("kind"))
    assert load_bundle(tmp_path / "old").name == "unet"


@pytest.mark.parametrize("labels", [None, 3, "nothing", ["nothing", 5], [["nothing"], "person"]])
def test_labels_that_are_none_are_refused(saved, labels):
    def change(document):
        document["config"]["labels"] = labels
        if labels is None:
            del document["config"]["labels"]

    edit_config(saved[1], change)
    with pytest.raises(ConfigError, match="labels are"):
        load_segmenter_bundle(saved[1])


def test_labels_of_another_number_are_another_architecture(saved):
    edit_config(saved[1], lambda document: document["config"]["labels"].append("sky"))
    with pytest.raises(BundleError, match="another architecture"):
        load_segmenter_bundle(saved[1])
