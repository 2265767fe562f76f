"""Who is compared in quality.py, and how: each contender trains for a budget, is drawn from and is scored in the same way."""
