"""Random numbers as a function of (seed, purpose, example index, tags): nothing else moves them.

A number does not depend on the batch that its example is in, on the order of calls or on the device, and
no random state exists to be saved; only what a network itself draws from torch depends on them, see
``torch_draws``. Each example has its own SplitMix64 sequence (Steele, Lea, Flood 2014,
https://doi.org/10.1145/2714064.2660195), whose start is a hash of all that names it.

Uniform numbers are multiples of 2^-24 and normal ones are rounded to float32, in every dtype, so that
float32 and float64 runs draw the same values.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed 64-bit integer
_MIX1 = -0x40A7B892E31B1A47
_MIX2 = -0x6B2FB644ECCEEE15


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """Finalise SplitMix64: a bijection of 64-bit integers that passes the usual test batteries."""
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


class Apart(RuntimeError):
    """Several runs were to be done as one, and this can only be done for each alone."""


@dataclass(frozen=True)
class Streams:
    """One stream of random numbers per example (or one stream alone).

    Attributes:
        seed: The run's seed, any integer.
        tags: The purpose, and whatever else tells two uses apart (epoch, restart, parameter name).
        index: Example indices, (N,), int64: results then have a leading dimension N. None: one stream.
        parts: The streams that these are made of, see ``joined``; none for streams of one run.
    """

    seed: int = 0
    tags: tuple[str | int, ...] = ()
    index: Tensor | None = None
    parts: tuple[Streams, ...] = ()

    def tag(self, *tags: str | int) -> Streams:
        """Return the streams of a further purpose."""
        return replace(self, tags=(*self.tags, *tags), parts=tuple(part.tag(*tags) for part in self.parts))

    def of(self, index: Tensor) -> Streams:
        """Return the same purpose for other examples, (M,), int64.

        Raises:
            Apart: the streams are joined: an index does not say of which run.
        """
        if self.parts:
            raise Apart("other examples were asked of joined streams, and an index does not say of which run")
        return replace(self, index=index)

    def then(self, number: Tensor) -> Streams:
        """Return the streams of one number each, (N,), int64: what a tag does where the examples differ in it.

        Raises:
            Apart: the streams are joined.
        """
        assert self.index is not None, "streams without an index have no rows to tell apart"
        return self.of(_mix(_mix(self.index.to(number.device) * _GOLDEN) ^ _mix((number + 1) * _MIX2)))

    def key(self) -> int:
        """Return the 64-bit number (signed) that seed and tags stand for.

        Raises:
            Apart: the streams are joined: each run has its own.
        """
        if self.parts:
            raise Apart("one number was asked of joined streams, and each run has its own")
        tags = tuple(tag if isinstance(tag, str) else int(tag) for tag in self.tags)  # numpy's print otherwise
        text = repr((int(self.seed), tags)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)

    def bits(self, *shape: int, device: torch.device | str | None = None) -> Tensor:
        """Return 64 random bits each, int64, (N, *shape) or (*shape) where there is no index."""
        count = math.prod(shape)
        device = self.index.device if device is None and self.index is not None else device
        place = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _GOLDEN
        if self.index is None:
            return _mix(place + self.key()).view(shape)
        start = _mix(_mix(self.index.to(device) * _GOLDEN) ^ self._keys(device))
        return _mix(start[:, None] + place).view(-1, *shape)

    def _keys(self, device: torch.device | str | None) -> int | Tensor:
        """Return the key of the run, or of each example's run, (N,)."""
        if not self.parts:
            return self.key()
        keys = [torch.full_like(part.index, part.key()) for part in self.parts if part.index is not None]
        return torch.cat(keys).to(device)

    def uniform(
        self,
        *shape: int,
        low: float = 0.0,
        high: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return numbers uniform in [low, high), (N, *shape)."""
        u = (_shift(self.bits(*shape, device=device), 40)).to(dtype) * 2.0**-24
        return u if (low, high) == (0.0, 1.0) else u * (high - low) + low

    def normal(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tensor:
        """Return standard normal numbers, (N, *shape), by the inverse of the distribution function."""
        u = (_shift(self.bits(*shape, device=device), 12).double() + 0.5) * 2.0**-52
        return torch.special.ndtri(u).float().to(dtype)

    def sign(self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> Tensor:
        """Return -1 or 1 with equal probability, (N, *shape)."""
        return ((_shift(self.bits(*shape, device=device), 63) << 1) - 1).to(dtype)

    def integers(self, high: int, *shape: int, device: torch.device | str | None = None) -> Tensor:
        """Return integers in [0, high), int64, (N, *shape); high up to 2^31, bias below 2^-31."""
        return (_shift(self.bits(*shape, device=device), 32) * high) >> 32

    def order(self, count: int) -> Tensor:
        """Return a random order of ``count`` things, (count,), int64 on the CPU; needs no index."""
        return torch.argsort(replace(self, index=None).bits(count), stable=True)

    def torch_seed(self) -> int:
        """Return a seed for code that draws from a torch or NumPy generator: 32 bits."""
        return self.key() & 0xFFFFFFFF


def joined(parts: Sequence[Streams]) -> Streams:
    """Return the streams of several runs as one: the rows of each are, bit for bit, what it gives alone.

    Args:
        parts: Streams of one run each, all with an index; their rows follow one another.
    """
    index = [part.index for part in parts if part.index is not None]
    assert len(index) == len(parts), "streams without an index have no rows to join"
    return Streams(index=torch.cat(index), parts=tuple(parts))


def numbered(x: Tensor, *purpose: str | int, seed: int = 0) -> Streams:
    """Return streams for the rows of x numbered in order: what a function uses when it is given none."""
    return Streams(seed=seed, tags=purpose, index=torch.arange(len(x), device=x.device))


@contextmanager
def torch_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch's own generators, which dropout for example draws from, begin with a seed in the block.

    These numbers depend on the order of the calls and on the device. Torch's random state is as before afterwards.

    Args:
        seed: What they begin with, such as ``Streams.torch_seed`` gives it.
        device: Where numbers are drawn, beside the CPU.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
