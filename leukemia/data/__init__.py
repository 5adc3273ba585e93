"""Cells: index, pixels, groups, splits, batches."""
