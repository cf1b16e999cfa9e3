"""HTTP under `/v1` and beside it, a file a subject."""
