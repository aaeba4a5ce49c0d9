"""The container lab: machines with systemd, reached over ssh as real ones are."""
