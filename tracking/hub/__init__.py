"""Live state in memory: trip feeds, outboxes, and who is connected. Synchronous; nothing here waits."""
