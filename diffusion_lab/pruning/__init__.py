"""What in outputs/ nothing needs: found, listed, and removed when asked. Imports no torch."""
