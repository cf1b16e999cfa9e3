"""The hubs that share one database, as processes on a network: who is alive, and how they reach each other.

This package carries notices and positions. What they do is decided in `tracking.cluster`.
"""
