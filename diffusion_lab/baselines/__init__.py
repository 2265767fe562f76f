"""The theory of the families beside diffusion; each file answers one question, with torch and what `diffusion` offers."""
