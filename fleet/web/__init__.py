"""The controller's HTTPS server."""
