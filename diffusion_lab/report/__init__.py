"""Reports on scores: tables, plots, a page, and files for papers. Reads run folders and does not import torch.

It is independent of `diffusion_lab.sweeps`: a report reads only files, so runs without a sweep, or from somebody else, get the
same report.
"""
