"""A real Kubernetes control plane on loopback. Only kubelets are played.

- `plane`: etcd, API server, controller manager, scheduler, identities, nodes
- `kubeapi`: a small blocking client; `nodes`: Node objects; `manifests`: gpuheal's own objects and tokens
- `kubelet`: one process that plays all kubelets; `kubeletstatus`: what they report
"""
