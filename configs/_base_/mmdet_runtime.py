_base_ = 'mmdet::_base_/default_runtime.py'

# the hosts need mmvssd's compatibility layer before they are imported themselves
custom_imports = dict(imports=['mmvssd'], allow_failed_imports=False)
# the guards, whoever builds the Runner: mmvssd/engine/guards.py
runner_type = 'mmvssd.GuardedRunner'
vis_backends = [dict(type='LocalVisBackend'), dict(type='mmvssd.TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)
