"""`gpuheal dashboards preview`: all boards as one HTML page, from any Prometheus, without Grafana."""
