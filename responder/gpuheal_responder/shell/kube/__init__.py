"""The API server: transport, caches, and the ports that live in Kubernetes."""
