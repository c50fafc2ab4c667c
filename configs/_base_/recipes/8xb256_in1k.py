_base_ = './8xb128_in1k.py'

# a global batch of 2048 = 8 GPUs x 256 images, and the lr that was published for it
train_dataloader = dict(batch_size=256)
auto_scale_lr = dict(base_batch_size=2048)
optim_wrapper = dict(optimizer=dict(lr=1.2e-3))
param_scheduler = [
    # warm-up from 5e-7 * 2048 / 512
    dict(type='LinearLR', start_factor=2e-6 / 1.2e-3, by_epoch=True, end=20,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=20,
         convert_to_iter_based=True),
]
