"""Hole masks, and what is pasted or measured through them."""
