"""Names under which public code keeps its networks' weights, in the order in which that code makes them."""

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def trades(blocks):
    """WideResNet of Zhang et al. 2019: an unused stage, ``sub_block1``, stands behind the first."""

    def stage(name):
        return [
            f"{name}.layer.{block}.{part}"
            for block in range(blocks)
            for part in (*norm("bn1"), "conv1.weight", *norm("bn2"), "conv2.weight", "convShortcut.weight")
            if block == 0 or "Shortcut" not in part
        ]

    stages = [stage(f"block{number}") for number in (1, 2, 3)]
    return ["conv1.weight", *stages[0], *stages[1], *stages[2], *norm("bn1"), "fc.weight", "fc.bias"]


def norm(name):
    return [f"{name}.{part}" for part in BATCH_NORM]


def gowal(blocks):
    """DMWideResNet of Gowal et al. 2020."""
    parts = (*norm("batchnorm_0"), "conv_0.weight", *norm("batchnorm_1"), "conv_1.weight", "shortcut.weight")
    inside = [
        f"layer.{stage}.block.{block}.{part}"
        for stage in range(3)
        for block in range(blocks)
        for part in parts
        if block == 0 or part != "shortcut.weight"
    ]
    return ["init_conv.weight", *inside, *norm("batchnorm"), "logits.weight", "logits.bias"]


def gowal_preact():
    """DMPreActResNet-18 of the same authors."""
    parts = (*norm("batchnorm_0"), "conv_2d_1.weight", *norm("batchnorm_1"), "conv_2d_2.weight", "shortcut.weight")
    inside = [
        f"layer_{stage}.{block}.{part}"
        for stage in range(4)
        for block in range(2)
        for part in parts
        if (stage > 0 and block == 0) or part != "shortcut.weight"
    ]
    return ["conv_2d.weight", *inside, *norm("batchnorm"), "logits.weight", "logits.bias"]


def stutz(kind):
    """ResNet-18 of Stutz et al. 2021; ``kind`` is its normalisation, "rebn" or "bn"."""
    down = ("downsample.0.weight", "downsample.0.bias", *norm("downsample.1"))
    parts = ("conv1.weight", *norm("norm1"), "conv2.weight", *norm("norm2"), *down)
    inside = [
        f"block{stage}.{block}.{part}"
        for stage in range(4)
        for block in range(2)
        for part in parts
        if (stage > 0 and block == 0) or "downsample" not in part
    ]
    return ["conv1.weight", "conv1.bias", *norm(f"{kind}1"), *inside, "logits.weight", "logits.bias"]


def resnet(shortcut="shortcut", last="linear"):
    """ResNet-18 for small images of many; torchvision's names with "downsample" and "fc"."""
    down = (f"{shortcut}.0.weight", *norm(f"{shortcut}.1"))
    parts = ("conv1.weight", *norm("bn1"), "conv2.weight", *norm("bn2"), *down)
    inside = [
        f"layer{stage}.{block}.{part}"
        for stage in (1, 2, 3, 4)
        for block in range(2)
        for part in parts
        if (stage > 1 and block == 0) or shortcut not in part
    ]
    return ["conv1.weight", *norm("bn1"), *inside, f"{last}.weight", f"{last}.bias"]


def preact(*, final_norm):
    """PreActResNet-18 of Rice et al. 2020 (final_norm) and of Wong et al. 2020 (without)."""
    parts = (*norm("bn1"), "conv1.weight", *norm("bn2"), "conv2.weight", "shortcut.0.weight")
    inside = [
        f"layer{stage}.{block}.{part}"
        for stage in (1, 2, 3, 4)
        for block in range(2)
        for part in parts
        if (stage > 1 and block == 0) or "shortcut" not in part
    ]
    return ["conv1.weight", *inside, *(norm("bn") if final_norm else []), "linear.weight", "linear.bias"]


def vgg(features="features", last="classifier"):
    """VGG-16 with BatchNorm: convolution, BatchNorm, activation, and pooling behind every stage."""
    names, place = [], 0
    for layers in (2, 2, 3, 3, 3):
        for _ in range(layers):
            names += [f"{features}.{place}.weight", f"{features}.{place}.bias", *norm(f"{features}.{place + 1}")]
            place += 3
        place += 1
    return [*names, f"{last}.weight", f"{last}.bias"]


def numbered(state):
    """Names that say nothing but what each tensor is."""
    return [f"part{place}.{name.rpartition('.')[2]}" for place, name in enumerate(state)]
