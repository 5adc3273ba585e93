"""Trained networks at work: predictors, export, Grad-CAM."""
