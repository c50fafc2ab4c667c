backbone = dict(type='mmvssd.VSSD', arch='tiny')
dims = [64, 128, 256, 512]
checkpoint = 'checkpoints/vssd-tiny_in1k.pth'
