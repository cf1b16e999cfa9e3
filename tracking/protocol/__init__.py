"""Wire protocol version 1, a module an audience: what each sends and is sent, over sockets and HTTP. No I/O.

`codec` is the way from bytes to messages and back, `fit` makes messages small enough for a frame.
"""
