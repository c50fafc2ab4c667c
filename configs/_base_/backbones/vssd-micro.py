backbone = dict(type='mmvssd.VSSD', arch='micro')
dims = [48, 96, 192, 384]
checkpoint = 'checkpoints/vssd-micro_in1k.pth'
