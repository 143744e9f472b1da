"""Updates on the node: what of a release has to be fetched, and how the file is made of it."""
