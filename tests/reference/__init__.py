"""What other programs say, kept so that tests can compare without these programs."""
