backbone = dict(type='mmvssd.VMamba', arch='v0-small')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vmamba-v0-small_in1k.pth'
