"""Filling holes in photographs of any size."""
