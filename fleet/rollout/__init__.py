"""Rollouts: which node is to have which release when. Pure: storing, publishing and hearing are the caller's part."""
