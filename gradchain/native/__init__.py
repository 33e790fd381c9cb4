"""Kernels in C++ for what XLA's CPU backend does in several passes over memory: optional, built where they are used.

``python -m gradchain.native`` compiles what calls them, once for each version of jaxlib. A step's own loop is written
when the step is traced (``code.py``), compiled when it is lowered (``library.py``), and kept for other processes.
Without a compiler nothing changes.
"""
