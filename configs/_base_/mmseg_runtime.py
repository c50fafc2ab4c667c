_base_ = 'mmseg::_base_/default_runtime.py'

# the hosts need mmvssd's compatibility layer before they are imported themselves
custom_imports = dict(imports=['mmvssd'], allow_failed_imports=False)
# the guards, whoever builds the Runner: mmvssd/engine/guards.py
runner_type = 'mmvssd.GuardedRunner'
# the guards of tests once more: MMSegmentation's own test.py does not read runner_type
default_hooks = dict(
    checkpoint_check=dict(type='mmvssd.CheckpointCheckHook'),
    run_record=dict(type='mmvssd.RunRecordHook'),
    data_survey=dict(type='mmvssd.DataSurveyHook'),
    data_check=dict(type='mmvssd.DataCheckHook'))
vis_backends = [dict(type='LocalVisBackend'), dict(type='mmvssd.TensorboardVisBackend')]
visualizer = dict(vis_backends=vis_backends)
