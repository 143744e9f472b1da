"""Releases as the controller makes them: files cut into segments, and the objects that they travel as."""
