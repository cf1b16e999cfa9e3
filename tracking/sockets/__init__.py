"""The WebSocket endpoints: what all connections share, and the driver's and the passenger's own."""
