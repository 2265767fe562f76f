"""Sweeps: their cells, the order of jobs, the queues that run them, and their progress. Does not import torch."""
