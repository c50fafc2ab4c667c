backbone = dict(type='mmvssd.VMamba', arch='base-s2l15')
dims = [128, 256, 512, 1024]
checkpoint = 'checkpoints/vmamba-base-s2l15_in1k.pth'
