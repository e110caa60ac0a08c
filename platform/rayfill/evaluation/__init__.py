"""Measuring systems side by side, and showing it."""
