"""Wire protocol version 1, with one module for each audience: the messages that it sends and gets, on sockets and over HTTP.

`codec` turns bytes into messages and back. `fit` makes messages small enough for a frame. No I/O.
"""
