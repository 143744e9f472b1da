"""The Shoal agent: one light daemon on a device that answers prompts from MQTT with a local model."""

__version__ = "0.1.0"
