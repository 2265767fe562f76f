"""Metrics of models, one file each; score.py is the path from samples to numbers."""
