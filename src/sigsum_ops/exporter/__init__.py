"""The exporter: what a machine of a site tells Prometheus of itself.

``table`` names every metric, ``read`` finds out, ``serve`` answers. It decides nothing: what is too
old, too many or too few is said by the alert rules.
"""
