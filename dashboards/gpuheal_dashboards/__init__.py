"""Grafana dashboards as code, and a preview of them without Grafana."""
