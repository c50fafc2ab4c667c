"""Children of MMEngine's registries, so that ``type='mmvssd.VSSD'`` is found from any host.

MMEngine imports ``mmvssd.registry`` when it first meets the scope ``mmvssd``, and the modules
named in ``locations`` when it first looks something up; a config needs no ``custom_imports``.
"""
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import Registry, build_runner_from_cfg

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmvssd', locations=['mmvssd.models'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmvssd', locations=['mmvssd.engine'])
RUNNERS = Registry('runner', build_func=build_runner_from_cfg, parent=MMENGINE_RUNNERS,
                   scope='mmvssd', locations=['mmvssd.engine'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmvssd', locations=['mmvssd.engine'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmvssd',
                    locations=['mmvssd.engine'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmvssd',
                      locations=['mmvssd.bands'])
DATA_SAMPLERS = Registry('data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmvssd',
                         locations=['mmvssd.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, scope='mmvssd',
    locations=['mmvssd.engine'])
VISBACKENDS = Registry('vis_backend', parent=MMENGINE_VISBACKENDS, scope='mmvssd',
                       locations=['mmvssd.engine'])
FUNCTIONS = Registry('function', parent=MMENGINE_FUNCTIONS, scope='mmvssd',
                     locations=['mmvssd.engine.train.sharding'])
STRATEGIES = Registry('strategy', parent=MMENGINE_STRATEGIES, scope='mmvssd',
                      locations=['mmvssd.engine.train.sharding'])

#: The ops of ``mmvssd_kernels``, by name; layers look them up here.
KERNELS = Registry('kernel', scope='mmvssd', locations=['mmvssd.ops'])
