"""Prepared datasets: written by Ray Data, read, batched and shown."""
