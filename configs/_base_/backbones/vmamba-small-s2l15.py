backbone = dict(type='mmvssd.VMamba', arch='small-s2l15')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vmamba-small-s2l15_in1k.pth'
