# A VMamba small enough to learn the sample data on a laptop's CPU; of the two versions the first
# learns it in fewer steps.
backbone = dict(
    type='mmvssd.VMamba',
    arch=dict(
        embed_dims=24,
        depths=(1, 1, 2, 1),
        version='v0'))
dims = [24, 48, 96, 192]
checkpoint = 'work_dirs/vmamba-nano_1xb64_digits/epoch_8.pth'  # of the sample recipe
