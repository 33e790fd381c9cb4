"""Kernels in C++ for what XLA's CPU backend does in several passes over memory: optional, built where they are used.

``python -m gradchain.native`` compiles them, once for each version of jaxlib. Without a compiler nothing changes.
"""
