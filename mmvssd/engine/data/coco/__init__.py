"""Annotation files of COCO's form: what a reader or a loss stumbles over, and what is doubtful."""
from mmvssd.engine.data.coco.file_check import Summary, Use, check_file
from mmvssd.engine.data.coco.reading import read_json

__all__ = ['Summary', 'Use', 'check_file', 'read_json']
