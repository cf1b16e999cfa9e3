"""The WebSocket endpoints: the protocols below them, what all connections share, and one module for each endpoint."""
