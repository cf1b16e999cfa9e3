"""Live state in memory: trip feeds, queues, and who is connected. Synchronous; nothing here waits."""
