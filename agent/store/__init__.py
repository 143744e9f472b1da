"""What must survive a power cut: requests, answers that wait for the broker, and a few facts. One SQLite file."""
