"""What is measured of a model: a file for each metric; score.py is the path from samples to numbers."""
