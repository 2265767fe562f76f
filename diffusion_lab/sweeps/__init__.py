"""Sweeps: their cells, the order of jobs, the queues that run them, and their progress. Does not import torch.

axes     the cells: every combination of the axes' values
plan     which models are trained and which cells are scored, and the outcomes
jobs     jobs in separate processes
queues   Slurm, and this machine
frozen   the copy of code and configs that jobs run from
watch    the progress of a sweep
"""
