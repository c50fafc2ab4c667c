#!/usr/bin/env python
"""Report what the kernels' machine code says, without a GPU. Needs PyTorch and Triton."""
import sys

from mmvssd_kernels.benchmark.static_command import main

if __name__ == '__main__':
    sys.exit(main(program='python tools/benchmarks/kernel_report.py'))
