"""The process itself: long-lived tasks, files that change, and an event loop that must not stand still."""
