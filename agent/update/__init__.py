"""How a node gets a release: what of it is fetched and how it is put together, judged, switched to, and given up."""
