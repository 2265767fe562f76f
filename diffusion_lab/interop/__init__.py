"""Formats of other packages: checkpoints, samples and statistics are imported, models are exported. Imports run no foreign code."""
