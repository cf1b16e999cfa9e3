"""The demo: a private PostgreSQL, the hub and simulated drivers as child processes, and links to the pages."""
