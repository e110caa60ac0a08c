"""COCO annotations: read and validated here, decoded to masks that are exactly 0 or 1."""
