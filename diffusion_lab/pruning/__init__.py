"""What is not needed in outputs/: found, listed, and removed with remove=true. Imports no torch."""
