"""Sweeps: their cells, their jobs, where these run, and their progress. Does not import torch.

axes     the cells: every combination of the axes' values
stopping rules for testing after each new seed
decide   pairs of choices that are compared until they are decided
plan     which models are trained and which cells are scored, and what a job does
local    jobs in processes of this machine
slurm    jobs of a Slurm cluster
frozen   the copy of code that jobs of a cluster run from
watch    the progress of a sweep
"""
