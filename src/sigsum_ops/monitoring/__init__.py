"""Monitoring: whom Prometheus asks, and what its alert rules say. Runs on the controller."""
