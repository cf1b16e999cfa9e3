"""A simulation of millions of vehicles on many hubs: what they send each other, and what a fault does.

No hub runs here. The figures of one hub, its database and the broker are those that were measured (`assumptions`). The
simulation draws fleets, watchers and dispatchers, and counts what falls on each hub, link and database.
"""
