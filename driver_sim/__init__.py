"""A driver's app, and a simulated fleet of such apps that drives through Liechtenstein."""
