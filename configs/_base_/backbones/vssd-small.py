backbone = dict(type='mmvssd.VSSD', arch='small')
dims = [64, 128, 256, 512]
checkpoint = 'checkpoints/vssd-small_in1k.pth'
