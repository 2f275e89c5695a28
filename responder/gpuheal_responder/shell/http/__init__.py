"""What others call: the webhook, people, probes and metrics."""
