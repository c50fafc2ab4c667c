"""Names of the published VSSD code and of :class:`mmvssd.models.VSSD`."""
from mmvssd.converters.rules import Rules, Variant

_BLOCK = r'layers\.(\d+)\.blocks\.(\d+)'

_SIMPLE_STEM = Variant(
    has=r'patch_embed\.norm\.\w+', lacks=r'patch_embed\.(conv[23]|proj)\..*',
    renamed=(
        (r'patch_embed\.(?:conv1\.)?conv\.(\w+)', r'stem.conv.\1'),
        (r'patch_embed\.(?:conv1\.norm|bn)\.(\w+)', r'stem.bn.\1'),
        (r'patch_embed\.norm\.(\w+)', r'stem.norm.\1')),
    settings=dict(stem='simple'))
_SIMPLE_DOWNSAMPLE = Variant(
    has=r'layers\.\d+\.downsample\.conv\.(0\.)?conv\.\w+',
    lacks=r'layers\.\d+\.downsample\.conv\.1\..*',
    renamed=(
        (r'layers\.(\d+)\.downsample\.conv\.(?:0\.)?conv\.(\w+)', r'downsamples.\1.conv.conv.\2'),
        (r'layers\.(\d+)\.downsample\.norm\.(\w+)', r'downsamples.\1.norm.\2')),
    settings=dict(downsample='simple'))

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
    variants=(_SIMPLE_STEM, _SIMPLE_DOWNSAMPLE),
    pointwise=r'stem\.conv3\.1\.conv\.weight|downsamples\.\d+\.[02]\.conv\.weight')
