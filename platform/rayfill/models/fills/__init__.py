"""Fills without learning, and what a network makes of one."""
