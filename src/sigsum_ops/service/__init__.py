"""What a service of ours is made of: its settings, what it tells systemd, its metrics."""
