"""Predict from a plain installation: ``python -m mmvssd.predict --model FILE IMAGES``.

It is ``tools/predict.py`` for those who have no checkout. With an exported file it needs neither
mmcv nor the hosts.
"""
from functools import partial

from mmvssd.cli.command_line import run
from mmvssd.cli.predict_command import main

if __name__ == '__main__':
    run(partial(main, 'python -m mmvssd.predict'))
