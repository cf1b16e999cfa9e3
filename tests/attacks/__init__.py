"""Attacks on a hub from the loopback, and honest clients measured beside them.

A short form of each is a test in `tests/trust/`. `make soak ARGS='attacks'` runs all of them longer, and checks the figures.
"""
