"""Names of the published VMamba code, newest and oldest, and of :class:`mmvssd.models.VMamba`."""
from mmvssd.converters.rules import Rules

_BLOCK = r'layers\.(\d+)\.blocks\.(\d+)'

RULES = Rules(
    renamed=(
        # convolution and norm of every version's stem, under two names, and of the later one's
        # second
        (r'patch_embed\.(?:0|proj)\.(\w+)', r'stem.conv.\1'),
        (r'patch_embed\.(?:2|norm)\.(\w+)', r'stem.norm.\1'),
        (r'patch_embed\.5\.(\w+)', r'stem.down.conv.\1'),
        (r'patch_embed\.7\.(\w+)', r'stem.down.norm.\1'),
        (rf'{_BLOCK}\.(?:norm|ln_1)\.(\w+)', r'stages.\1.\2.norm1.\3'),
        (rf'{_BLOCK}\.(?:op|self_attention)\.conv2d\.(\w+)', r'stages.\1.\2.mixer.conv.\3'),
        (rf'{_BLOCK}\.(?:op|self_attention)\.out_norm\.(\w+)', r'stages.\1.\2.mixer.norm.\3'),
        (rf'{_BLOCK}\.(?:op|self_attention)\.((in_proj|out_proj)\.\w+)', r'stages.\1.\2.mixer.\3'),
        (rf'{_BLOCK}\.(?:op|self_attention)\.'
         r'(x_proj_weight|dt_projs_weight|dt_projs_bias|A_logs|Ds)', r'stages.\1.\2.mixer.\3'),
        (rf'{_BLOCK}\.((norm2|mlp\.fc1|mlp\.fc2)\.\w+)', r'stages.\1.\2.\3'),
        (r'layers\.(\d+)\.downsample\.((reduction|norm)\.\w+)', r'downsamples.\1.\2'),
        (r'layers\.(\d+)\.downsample\.1\.(\w+)', r'downsamples.\1.conv.\2'),
        (r'layers\.(\d+)\.downsample\.3\.(\w+)', r'downsamples.\1.norm.\2'),
        (r'outnorm(\d)\.(\w+)', r'norm\1.\2'),
    ),
    linear=r'.*\.(in_proj|out_proj|fc1|fc2|reduction)\.weight')
