"""Names of the published VSSD code and of :class:`mmvssd.models.VSSD`."""
from mmvssd.converters.rules import Rules

_BLOCK = r'layers\.(\d+)\.blocks\.(\d+)'

RULES = Rules(
    renamed=(
        # arXiv stem
        (r'patch_embed\.(conv1|conv[23]\.[01])\.(conv|norm)\.(\w+)', r'stem.\1.\2.\3'),
        # ICCV 2025 stem: convolution, norm, activation four times, the last without activation
        *((rf'patch_embed\.proj\.{3 * i + j}\.(\w+)', rf'stem.{i}.{part}.\1')
          for i in range(4) for j, part in enumerate(('conv', 'norm'))),
        (r'layers\.(\d+)\.downsample\.conv\.(\d)\.(conv|norm)\.(\w+)', r'downsamples.\1.\2.\3.\4'),
        (r'layers\.(\d+)\.downsample\.reduction\.(\w+)', r'downsamples.\1.conv.\2'),
        (r'layers\.(\d+)\.downsample\.norm\.(\w+)', r'downsamples.\1.norm.\2'),
        (rf'{_BLOCK}\.attn\.conv2d\.(\w+)', r'stages.\1.\2.mixer.conv.\3'),
        (rf'{_BLOCK}\.attn\.((in_proj|out_proj|to_qkv|to_out|norm)\.\w+)',
         r'stages.\1.\2.mixer.\3'),
        (rf'{_BLOCK}\.attn\.(dt_bias|A_log|D)', r'stages.\1.\2.mixer.\3'),
        (rf'{_BLOCK}\.((cpe1|cpe2|norm1|norm2|mlp\.fc1|mlp\.fc2)\.\w+)', r'stages.\1.\2.\3'),
        (r'outnorm(\d)\.(\w+)', r'norm\1.\2'),
    ),
    dropped=(
        (r'.*\.ropes\.rotations', 'rotary table of one grid; computed from the input at hand'),
    ),
    linear=r'.*\.(in_proj|out_proj|to_qkv|to_out|fc1|fc2)\.weight',
    pointwise=r'stem\.conv3\.1\.conv\.weight|downsamples\.\d+\.[02]\.conv\.weight')
