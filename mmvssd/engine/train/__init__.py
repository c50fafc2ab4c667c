"""Loops, early stopping, decay of learning rates, sharding, MESA, parameters without gradient."""
from mmvssd.engine.train.early_stopping import ResumableEarlyStoppingHook
from mmvssd.engine.train.layer_decay import LearningRateDecayOptimizerConstructor
from mmvssd.engine.train.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmvssd.engine.train.mesa import MESAHook
from mmvssd.engine.train.unused_parameters import UnusedParametersHook

__all__ = ['EpochBasedTrainLoop', 'IterBasedTrainLoop', 'LearningRateDecayOptimizerConstructor',
           'MESAHook', 'ResumableEarlyStoppingHook', 'UnusedParametersHook']
