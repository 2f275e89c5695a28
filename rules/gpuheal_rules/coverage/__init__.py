"""Which alerts a site's telemetry can raise: what the rules read, against what a Prometheus has."""
