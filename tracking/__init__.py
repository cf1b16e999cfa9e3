"""A self-hosted live tracking service: driver apps in, passenger maps out, every position in PostGIS."""
