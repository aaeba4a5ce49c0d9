"""What is built once on the controller: Debian packages with pinned inputs."""
