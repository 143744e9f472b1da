"""The fleet: the command that asks nodes and looks at them, and later the controller."""

__version__ = "0.1.0"
