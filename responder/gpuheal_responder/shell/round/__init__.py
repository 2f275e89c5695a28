"""One round of the engine: look, decide, perform, store, tell."""
