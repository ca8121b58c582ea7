"""What a number depends on, as one hash: whether what was begun may be gone on with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import torch

from robustscape.config import to_plain
from robustscape.results import versions
from robustscape.types import Plain, Subject


def fingerprint(subject: Subject, *settings: Plain) -> str:
    """Return a hash of settings, seed, batch, runtime, threads, versions, examples and the model's tensors.

    Those are its weights and all its buffers, also what no state dict holds, such as a normalisation's constants.

    Args:
        subject: What is looked at.
        *settings: What is done with it, plain data.
    """
    digest = hashlib.blake2b(digest_size=16)
    runtime = replace(subject.runtime, threads=subject.runtime.threads or torch.get_num_threads())
    everything = [*settings, subject.seed, subject.batch, to_plain(runtime), versions()]
    digest.update(json.dumps(everything, sort_keys=True).encode())
    tensors = {**dict(subject.model.named_buffers()), **subject.model.state_dict()}
    named = {"x": subject.x, "y": subject.y, "index": subject.index, **tensors}
    for name, value in named.items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
