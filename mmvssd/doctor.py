"""Show what works on this machine: ``python -m mmvssd.doctor``."""
import sys

from mmvssd.cli.doctor import main

if __name__ == '__main__':
    sys.exit(main())
