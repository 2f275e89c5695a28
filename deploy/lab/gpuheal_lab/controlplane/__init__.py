"""A real Kubernetes control plane on loopback, its kubelets played."""
