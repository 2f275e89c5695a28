"""Whose work runs on which GPU.

- `attribution`: process or GPU → pod
- `podresources`: the kubelet's answer to who holds which device
"""
