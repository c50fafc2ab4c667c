_base_ = 'mmseg::_base_/default_runtime.py'

# the hosts need mmvssd's compatibility layer before they are imported themselves
custom_imports = dict(imports=['mmvssd'], allow_failed_imports=False)
default_hooks = dict(
    checkpoint_check=dict(type='mmvssd.CheckpointCheckHook'),
    data_check=dict(type='mmvssd.DataCheckHook'))
