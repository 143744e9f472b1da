"""What a node, a controller and a client must agree on: topics, messages, limits, status codes.

Everything here is pure: values in, values or a `Refused` out. No socket, no file, no clock.
"""
