"""The key ceremony: what it does, the record it leaves, and the check of that record."""
