"""Photographs and masks in, prepared Parquet out: the data side of Rayfill."""
