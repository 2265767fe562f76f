"""Many cells: which there are, what is there of them, how they compare, and the report on them. Imports no torch."""
