"""Rule groups: each module yields the rules of one layer; `build` puts the layers in order.

All layers but the slow facts stand in one group, so that one evaluation carries a fact from the scrape to the alert:
Prometheus evaluates the rules of a group one after another at one timestamp, each seeing what the earlier ones wrote.
"""
