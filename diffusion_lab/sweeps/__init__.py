"""Many scored cells: gathered, folded over seeds, compared, and shown in one report. Reads files only; imports no torch."""
