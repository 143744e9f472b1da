"""The controller's state, in SQLite or PostgreSQL."""
