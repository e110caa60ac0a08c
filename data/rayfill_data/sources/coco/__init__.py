"""Sources made of COCO annotations."""
