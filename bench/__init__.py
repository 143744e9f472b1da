"""Measured side by side with a bare baseline or a peer in the same run. `python -m bench NAME`."""
