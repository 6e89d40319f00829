"""The data station: logs become a dataset directory of memory-mapped shards, and shards become batches."""
