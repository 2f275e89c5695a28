"""`gpuheal demo`: one fault, healed end to end on real servers, told live and as JSON.

- `main`: the command; `tour`: the story; `timeline`: how it is told
- `pipeline`: the alert path on real servers with the generated rules and routes; `webhook_proxy`: when deliveries came
- `scene`: a simulated fleet and cluster with a responder on them
- `kubescene`: the same on a real control plane; `kubefleet`: machines under it that obey the responder's reboot Jobs
"""
