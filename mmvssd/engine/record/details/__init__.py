"""What a test found beyond its scores: by class, by image, and how sure a model was."""
from mmvssd.engine.record.details.hook import FILE, TestDetailsHook

__all__ = ['FILE', 'TestDetailsHook']
