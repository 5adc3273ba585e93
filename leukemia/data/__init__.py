"""Cells: index, pixels, groups, sides, batches."""
