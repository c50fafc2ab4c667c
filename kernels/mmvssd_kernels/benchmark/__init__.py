"""How fast the ops are at the shapes of the published models, and whether they are right.

``python -m mmvssd_kernels.benchmark --help``; it needs PyTorch, and Triton for its kernels.
"""
