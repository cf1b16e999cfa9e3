"""A driver's app, and a fleet of them driving through Liechtenstein: the other end of the wire protocol's driver socket."""
