#!/usr/bin/env python
"""Time the ops beside the reference: a table in Markdown, and JSON. It needs only PyTorch."""
import sys

from mmvssd_kernels.benchmark.command import main

if __name__ == '__main__':
    sys.exit(main(program='python tools/benchmarks/op_speed.py'))
