"""What lies in outputs/."""
