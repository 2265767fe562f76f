"""What was scored, shown: tables, plots, a page, files for papers. Reads run folders and imports no torch.

It shares nothing with `diffusion_lab.sweeps`, which decides and runs: both know `runs` and `status.py`, and what a sweep ran
reaches the report as files alone. So runs that no sweep made, or that somebody else made, get the same report.
"""
