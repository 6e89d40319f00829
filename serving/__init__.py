"""Answers for a run over HTTP: a Ray Serve application, its endpoints, and what they know of users."""
