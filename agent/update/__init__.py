"""How a node gets a release: fetched, judged by the node itself, switched to, and given up when it is bad."""
