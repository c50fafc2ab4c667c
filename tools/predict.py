#!/usr/bin/env python
"""Predict on images or on a video: pictures, and a JSON of all predictions."""
from mmvssd.cli.command_line import run
from mmvssd.cli.predict_command import main

if __name__ == '__main__':
    run(main)
