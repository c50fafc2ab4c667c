backbone = dict(type='mmvssd.VMamba', arch='v0-base')
dims = [128, 256, 512, 1024]
checkpoint = 'checkpoints/vmamba-v0-base_in1k.pth'
