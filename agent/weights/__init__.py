"""What weight files say about themselves, read without llama.cpp: base models and adapters.

llama.cpp ends the process on many damaged or odd files. Everything here is plain Python that trusts no number of a
file, so that a file is refused with a sentence before llama.cpp sees a byte of it.
"""
