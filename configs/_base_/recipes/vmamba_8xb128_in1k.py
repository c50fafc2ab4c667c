_base_ = './8xb128_in1k.py'

# decay rates, and the biases of four sequences: 2-D, so that the rules for vectors miss them
no_decay = dict(decay_mult=0.)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'mixer.A_logs': no_decay,
            'mixer.dt_projs_bias': no_decay,
        }))
