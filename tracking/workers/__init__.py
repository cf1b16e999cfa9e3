"""Several hubs on one port of one machine: a supervisor, the hubs as its workers, and a private NATS server that joins them.

The supervisor does not import the hub. A worker is `tracking serve` with the file numbers that it inherits.
"""
