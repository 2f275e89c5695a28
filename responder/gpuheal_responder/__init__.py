"""The responder: wakes on Alertmanager's webhook, looks at the world, heals step by step and gives back on proof."""

__version__ = "0.1.0"
