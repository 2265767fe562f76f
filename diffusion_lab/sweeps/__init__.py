"""Many cells: which there are, what is there of them, and what is told of them. Imports no torch."""
