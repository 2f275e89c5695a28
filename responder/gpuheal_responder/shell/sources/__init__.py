"""Alertmanager and Prometheus, asked over HTTP, and the way from them to us."""
