"""What the world touches of a site: names in the DNS, witness policies, ports."""
