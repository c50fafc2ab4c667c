"""Children of MMEngine's registries, so that ``type='mmvssd.VSSD'`` is found from any host.

MMEngine imports ``mmvssd.registry`` when it first meets the scope ``mmvssd``, and the modules
named in ``locations`` when it first looks something up; a config needs no ``custom_imports``.
"""
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmvssd', locations=['mmvssd.models'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmvssd', locations=['mmvssd.engine'])

#: The ops of ``mmvssd_kernels``, by name; layers look them up here.
KERNELS = Registry('kernel', scope='mmvssd', locations=['mmvssd.ops'])
