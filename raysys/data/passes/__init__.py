"""The tasks of an ingestion: route pieces to lanes, gather lanes, learn vocabularies, encode shards.

Each task writes files named after its input, whole or not at all, and may be repeated. Pure: Ray Data calls these
objects with Arrow tables, and so can a test.
"""
