"""The part of `benchmarks.index` about size: bytes of Redis memory per image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

from benchmarks.common import Step, batches, make_table, out, print_verdict
from benchmarks.contenders import (
    Command,
    HiredisSocket,
    bucket_sets,
    one_hash_sets,
    string_sets,
)
from benchmarks.redis_server import RedisServer
from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.index import open_index

BytesPerImage = tuple[float, float]
"""By `used_memory`, and by `used_memory_rss`, which the process takes from the system."""

IDS_PER_CLAIM = 1000
"""Ids claimed at once, as in a sweep."""

LOCATIONS = (1, 2, 3)
AIMED_IMAGES = 5_000_000
AIMS = {1: 23, 2: 32}
"""Bytes an image with so many owners, at `AIMED_IMAGES`."""

MAX_STRING_IMAGES = 1_000_000
"""Images up to which the larger layouts are measured; above, they are extrapolated."""

LAYOUTS: dict[str, Callable[[Iterable[bytes]], list[Command]]] = {
    "HSET into the same buckets": bucket_sets,
    "one hash, text ids": one_hash_sets,
    "a string key each": string_sets,
}

DENSITY_LOOKUPS = 50_000
"""Timed at each density."""

SLICE_BITS = 10
"""The power of two of the buckets that other densities are measured on."""

FEW_IMAGES = 100
"""Images a bucket below which a slice has four times the buckets."""

VERSION_MASK, VERSION_4 = 0xF << 76, 0x4 << 76
"""The version of a UUID as a number: its image lies where random ids do."""

DENSITIES = (
    *((16, 2), (16, 15), (14, 61), (16, 76), (16, 153)),
    *((18, 381), (19, 191), (22, 238), (23, 119), (16, 430), (16, 460), (16, 560)),
)
"""(bits, images per bucket)."""

AIMED_DENSITY = (16, 76)
"""That of `AIMED_IMAGES`."""


async def use_each_command(url: str, bits: int) -> None:
    """Makes Redis allocate its statistics of each command, some 30 KB that belong to no image."""
    async with open_index(url, bits=bits) as index:
        await index.claims.claim(1, [bytes(16)])
        await index.claims.release(1, [bytes(16)])


def facts_of(ids: Iterable[bytes]) -> dict[bytes, ImageFacts]:
    """What a listing shows of these images: each is active, and has the same bytes everywhere."""
    return {
        image_id: ImageFacts(
            ImageStatus.ACTIVE, Content(HashKind.OS_HASH, blake2b(image_id, digest_size=8).digest())
        )
        for image_id in ids
    }


async def claim_all(url: str, number: int, ids: Sequence[bytes], bits: int = 16) -> None:
    """Claims the ids for the location of that number, as a sweep does."""
    async with open_index(url, bits=bits) as index:
        for batch in batches(ids, IDS_PER_CLAIM):
            await index.claims.claim(number, batch, facts_of(batch))


def _bytes_per_image(redis: RedisServer, before: dict[str, int], count: int) -> BytesPerImage:
    after = redis.memory()
    used, resident = (
        (after[name] - before[name]) / count for name in ("used_memory", "used_memory_rss")
    )
    return used, resident


async def compare_sizes(counts: Sequence[int], ids: dict[int, list[bytes]], step: Step) -> None:
    """Bytes per image of the index, with one to three owners each, and of other layouts."""
    index_bytes: dict[int, list[BytesPerImage]] = {}
    layout_bytes: dict[str, dict[int, BytesPerImage]] = {name: {} for name in LAYOUTS}
    for count in counts:
        with RedisServer() as redis:
            await use_each_command(redis.url, 16)
            before = redis.memory()
            for number in LOCATIONS:
                step(f"memory: {count:,} images, owner {number}")
                await claim_all(redis.url, number, ids[count])
                if number == 2:  # the next sweep of the first location finds that it is not alone
                    await claim_all(redis.url, 1, ids[count])
                index_bytes.setdefault(count, []).append(_bytes_per_image(redis, before, count))
        for name, commands in LAYOUTS.items():
            step(f"memory: {count:,} images, {name}")
            if count <= MAX_STRING_IMAGES or commands is bucket_sets:
                layout_bytes[name][count] = await _measure_layout(commands, ids[count])
    _print_sizes(counts, index_bytes, layout_bytes)


async def _measure_layout(
    commands: Callable[[Iterable[bytes]], list[Command]], ids: list[bytes]
) -> BytesPerImage:
    with RedisServer() as redis:
        with HiredisSocket(redis.port) as client:
            await client.run(commands([bytes(16)]))
            before = redis.memory()
            for batch in batches(ids, IDS_PER_CLAIM):
                await client.run(commands(batch))
        return _bytes_per_image(redis, before, len(ids))


def _print_sizes(
    counts: Sequence[int],
    index_bytes: dict[int, list[BytesPerImage]],
    layout_bytes: dict[str, dict[int, BytesPerImage]],
) -> None:
    rows = make_table(
        "Bytes of Redis memory an image: used_memory (resident)",
        *("", *(f"{count:,}" for count in counts)),
    )
    for number in LOCATIONS:
        owners = f"{number} owner{'s' if number > 1 else ''} each"
        cells = [index_bytes[count][number - 1] for count in counts]
        rows.add_row(
            f"index, {owners}", *(f"{used:.1f} ({resident:.1f})" for used, resident in cells)
        )
        if number in AIMS:
            aims = (str(AIMS[number]) if count == AIMED_IMAGES else "" for count in counts)
            rows.add_row("  aim, at most", *aims)
    further = [index_bytes[count][-1][0] - index_bytes[count][-2][0] for count in counts]
    rows.add_row("  each owner after the second", *(f"{value:.2f}" for value in further))
    for name, measured in layout_bytes.items():
        largest = measured[max(measured)]
        row = [measured.get(count) for count in counts]
        rows.add_row(
            name,
            *(
                f"{cell[0]:.1f} ({cell[1]:.1f})" if cell else f"~{largest[0]:.0f} extrapolated"
                for cell in row
            ),
        )
        ratios = [
            (cell or largest)[0] / index_bytes[count][0][0]
            for cell, count in zip(row, counts, strict=True)
        ]
        rows.add_row("  as many times the index", *(f"{ratio:.2f}" for ratio in ratios))
    out.print(rows)
    if AIMED_IMAGES in counts:
        for number, aim in AIMS.items():
            _print_size_verdict(number, index_bytes[AIMED_IMAGES][number - 1][0], aim)


def _print_size_verdict(owners: int, used: float, aim: float) -> None:
    text = f"{AIMED_IMAGES:,} images with {owners} owner{'s' * (owners > 1)} each"
    print_verdict(f"{text}: {used:.1f} bytes an image", f"{aim:g}", met=used <= aim)


async def compare_densities(step: Step, *, small: bool) -> None:
    """The cost of an image by how full buckets are, measured on a slice of a larger index.

    The slice has its part of everything that an index has (keys, the table of keys), so an image
    costs there what it would cost in the whole index.
    """
    with RedisServer() as redis:
        limit = " ".join(map(str, redis.compact_limit()))
    rows = make_table(
        f"What an image costs by images a bucket, measured on a slice of the buckets; {limit}. "
        f"Aims at {AIMED_IMAGES:,}: at most {AIMS[1]} bytes with one owner, {AIMS[2]} with two",
        *("bits", "a bucket", "whole index", "one owner", "two owners", "compact"),
        *("Redis µs: claim", "lookup"),
    )
    rng = random.Random(7)
    verdicts: dict[int, float] = {}
    for bits, mean in DENSITIES:
        step(f"density: {bits} bits, {mean} images a bucket")
        # Where buckets have few images, more of them: what a server takes by itself must not show.
        slice_bits = SLICE_BITS - 2 * small + 2 * (mean < FEW_IMAGES)
        id_bits = 128 - bits + slice_bits
        count = mean << slice_bits
        numbers = (rng.getrandbits(id_bits) for _ in range(count))
        ids = sorted((n & ~VERSION_MASK | VERSION_4).to_bytes(16, "big") for n in numbers)
        used, used_by_two, *cells = await _measure_density(ids, bits)
        if (bits, mean) == AIMED_DENSITY:
            verdicts = {1: used, 2: used_by_two}
        cells = [f"{used:.1f}", f"{used_by_two:.1f}", *cells]
        rows.add_row(str(bits), str(mean), f"{mean << bits:,}", *cells)
    out.print(rows)
    for owners, used in verdicts.items():
        _print_size_verdict(owners, used, AIMS[owners])


async def _measure_density(ids: list[bytes], bits: int) -> tuple[float, float, str, str, str]:
    """Bytes per image with one owner and with two, the share of compact buckets, and Redis's
    microseconds per claim and per lookup."""
    with RedisServer() as redis:
        await use_each_command(redis.url, bits)
        before = redis.memory()
        await claim_all(redis.url, 1, ids, bits)
        claim = float(redis.info("commandstats")["cmdstat_evalsha"]["usec"]) / len(ids)
        used, _ = _bytes_per_image(redis, before, len(ids))
        async with open_index(redis.url, bits=bits) as index:
            requested = random.Random(8).choices(ids, k=DENSITY_LOOKUPS)
            for batch in batches(requested, IDS_PER_CLAIM):
                await index.claims.lookup(batch)
        lookup = float(redis.info("commandstats")["cmdstat_hget"]["usec_per_call"])
        keys = list(redis.client.scan_iter("glr:?:*", count=1000))
        encodings = [redis.client.object("encoding", key) for key in keys]
        for number in (2, 1):  # and the next sweep of the first finds that it is not alone
            await claim_all(redis.url, number, ids, bits)
        used_by_two, _ = _bytes_per_image(redis, before, len(ids))
    compact = sum(encoding != b"hashtable" for encoding in encodings) / len(encodings)
    return used, used_by_two, f"{compact:.1%}", f"{claim:.2f}", f"{lookup:.2f}"
