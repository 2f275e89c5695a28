"""Everything that waits: the only asyncio of the responder. Rooms below; here what puts the parts together."""
