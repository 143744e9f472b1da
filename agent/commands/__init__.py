"""The commands of `shoal-agent`, one file each."""
