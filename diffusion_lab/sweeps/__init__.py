"""Many cells: which there are, in which order they run, where, and how far they are. Imports no torch."""
