"""Networks: stages and freezing, weights, the Lightning module, optimisers."""
