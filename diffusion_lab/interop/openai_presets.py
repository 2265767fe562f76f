"""The checkpoints that openai/improved-diffusion and openai/guided-diffusion publish, by file name, with their flags.

The flags are those of the authors' READMEs (improved-diffusion at commit 1bc7bbb, guided-diffusion at 22e0df8). A classifier has
the flags of its training and the process of the model that it guides, as `classifier_sample.py` runs the two.
"""

IMPROVED, GUIDED = "improved_diffusion", "guided_diffusion"

_COSINE = "--diffusion_steps 4000 --noise_schedule cosine"
_IMAGENET_64 = "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True"
_COND_64 = "--image_size 64 --num_channels 192 --num_res_blocks 3 --learn_sigma True --class_cond True"
_CIFAR_10 = "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3"
_LSUN = (
    "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True --use_scale_shift_norm False "
    "--attention_resolutions 16 --diffusion_steps 1000 --noise_schedule linear --rescale_learned_sigmas False "
    "--rescale_timesteps False"
)
_ADM = (
    "--attention_resolutions 32,16,8 --diffusion_steps 1000 --learn_sigma True --resblock_updown True "
    "--use_scale_shift_norm True"
)
_64 = (
    f"{_ADM} --class_cond True --dropout 0.1 --image_size 64 --noise_schedule cosine --num_channels 192 --num_head_channels 64 "
    "--num_res_blocks 3 --use_new_attention_order True"
)
_128 = (
    f"{_ADM} --class_cond True --image_size 128 --noise_schedule linear --num_channels 256 --num_heads 4 "
    "--num_res_blocks 2"
)
_LARGE = f"{_ADM} --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2"
_CLASSIFIER = (
    "--classifier_attention_resolutions 32,16,8 --classifier_width 128 --classifier_pool attention "
    "--classifier_resblock_updown True --classifier_use_scale_shift_norm True --diffusion_steps 1000"
)

PRESETS: dict[str, tuple[str, str]] = {
    "imagenet64_uncond_100M_1500K": (IMPROVED, f"{_IMAGENET_64} {_COSINE}"),
    "imagenet64_uncond_vlb_100M_1500K": (IMPROVED, f"{_IMAGENET_64} {_COSINE} --use_kl True"),
    "imagenet64_cond_270M_250K": (
        IMPROVED,
        f"{_COND_64} {_COSINE} --rescale_learned_sigmas False --rescale_timesteps False",
    ),
    "cifar10_uncond_50M_500K": (IMPROVED, f"{_CIFAR_10} {_COSINE}"),
    "cifar10_uncond_vlb_50M_500K": (IMPROVED, f"{_CIFAR_10} {_COSINE} --use_kl True"),
    "lsun_uncond_100M_1200K_bs128": (IMPROVED, _LSUN),
    "lsun_uncond_100M_2400K_bs64": (IMPROVED, _LSUN),
    "64x64_diffusion": (GUIDED, _64),
    "128x128_diffusion": (GUIDED, _128),
    "256x256_diffusion": (GUIDED, f"{_LARGE} --class_cond True --image_size 256"),
    "256x256_diffusion_uncond": (GUIDED, f"{_LARGE} --class_cond False --image_size 256"),
    "512x512_diffusion": (GUIDED, f"{_LARGE} --class_cond True --image_size 512"),
    **{
        f"lsun_{name}": (GUIDED, f"{_LARGE} --class_cond False --dropout {dropout} --image_size 256")
        for name, dropout in (("bedroom", 0.1), ("cat", 0.1), ("horse", 0.1), ("horse_nodropout", 0.0))
    },
    "64x64_classifier": (
        GUIDED,
        f"{_CLASSIFIER} --classifier_depth 4 --image_size 64 --noise_schedule cosine",
    ),
    **{
        f"{size}x{size}_classifier": (GUIDED, f"{_CLASSIFIER} --image_size {size} --noise_schedule linear")
        for size in (128, 256, 512)
    },
}
# They see a smaller image beside x_t, which no network here does.
UPSAMPLERS = ("upsample_cond_500K", "64_256_upsampler", "128_512_upsampler")
