"""Alertmanager configurations that carry the alerts to the responder."""
