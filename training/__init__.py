"""Adapters that this project trains itself: the grammars of their data, training, export and evaluation.

PyTorch and what comes with it (extra `train`) is imported by `loop.py` alone.
"""
