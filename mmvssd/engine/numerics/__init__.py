"""Keep numbers finite, find where they stop being so, and choose mixed precision."""
from mmvssd.engine.numerics.finite_check import FiniteCheckHook

__all__ = ['FiniteCheckHook']
