"""The demo: a broker, an agent and three prompts on one machine, from nothing.

`process` starts and ends programs, `broker` and `agent` are the two it starts, `prompts` is the client that
asks, and `trial` is the record that lets a later command find and end what was left running.
"""
