"""The verbs of serving, one file each."""
