"""The commands of `fleet`, one per file: each reads its options, does its work and returns an exit code."""
