"""The items that a replica answers with: those of its run, and what has been changed of them since."""
