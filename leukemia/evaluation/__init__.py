"""Figures from a predictions table: pure functions, no torch."""
