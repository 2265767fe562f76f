"""Others' formats: checkpoints, samples and statistics are read, models are exported. Reading runs no code from the files."""
