import sys

from mmvssd_kernels.benchmark.command import main

sys.exit(main())
