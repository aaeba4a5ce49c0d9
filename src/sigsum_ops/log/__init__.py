"""Tree heads, proofs, the log's HTTP API, the start guard."""
