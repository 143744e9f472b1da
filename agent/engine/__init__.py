"""The engine: a child process that runs llama.cpp, and what the daemon needs to run it.

The daemon imports `frames`, `ladder` and `supervisor`, which do not load llama.cpp; everything else here belongs to
the child. The child may die at any time: more than 25 known inputs abort or crash llama.cpp.
"""
