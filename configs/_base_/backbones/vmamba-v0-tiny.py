backbone = dict(type='mmvssd.VMamba', arch='v0-tiny')
dims = [96, 192, 384, 768]
checkpoint = 'checkpoints/vmamba-v0-tiny_in1k.pth'
