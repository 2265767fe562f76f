"""The theory of the families beside diffusion, under the same rules: torch and mathematics, no files, no configs."""
