"""The bench: a real hub on a real database, loaded over real sockets, and what that costs by the operating system's account.

    environment (database, hub, fleet) <- scenarios (who connects and reports how often) -> load -> report
                                              clients (as thin as they get)

Hub, database and load share one machine: figures are for comparison on the same one.
"""
