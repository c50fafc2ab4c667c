# ADE20K in crops of 512x512; the scales of --tta are those of the published scores.
_base_ = 'mmseg::_base_/datasets/ade20k.py'

tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            # 0.75, 1 and 1.25 times the single scale
            [dict(type='Resize', scale=scale, keep_ratio=True)
             for scale in ((1536, 384), (2048, 512), (2560, 640))],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0., 1.)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ]),
]
