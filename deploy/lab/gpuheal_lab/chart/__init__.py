"""The Helm chart: what is copied into it or made for it, and what is made from it by the real helm.

- `rules`: the rules as a template whose numbers come from values
- `settings`: the schema of the responder's settings
- `render`: `helm template`, the files of kustomize; `python -m gpuheal_lab.chart` (`__main__`) writes everything
"""
