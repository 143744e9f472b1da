"""The cloud that the controller lends to nodes: providers and their keys, budgets, what left."""
