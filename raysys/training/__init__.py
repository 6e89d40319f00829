"""The training station: a plain torch loop, checkpoints of our own, and Ray Train around them (fit.py only)."""
