"""The part of `benchmarks.index` about size: bytes of Redis memory an image."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from benchmarks.common import RedisServer, batches, out, table
from benchmarks.contenders import Command, Packed, bucket_sets, one_hash_sets, string_sets
from resolver.index import open_index

Step = Callable[[str], None]
Bytes = tuple[float, float]
"""Bytes an image by `used_memory` and by what the process takes from the system."""

PAGE = 1000
"""Ids claimed at once, as a sweep does."""

LOCATIONS = (1, 2, 3)
STRINGS_UP_TO = 1_000_000
"""Images up to which a string key each is measured."""

PEERS: dict[str, Callable[[Iterable[bytes]], list[Command]]] = {
    "raw HSET into the same buckets": bucket_sets,
    "one hash, text ids": one_hash_sets,
    "a string key each": string_sets,
}

SAMPLE = 50_000
"""Lookups timed at each density."""

SLICE_BITS = 10
"""The index is measured at other densities on this power of two of its buckets."""

DENSITIES = (
    *((16, 2), (16, 15), (14, 61), (16, 76), (16, 153)),
    *((18, 381), (19, 191), (22, 238), (23, 119), (16, 430), (16, 460), (16, 560)),
)
"""(bits, images a bucket)."""


async def warm(url: str, bits: int) -> None:
    """Uses each command once: Redis keeps statistics of each, some 30 KB, which are no image's."""
    async with open_index(url, bits=bits) as index:
        await index.claims.claim(1, [bytes(16)])
        await index.claims.release(1, [bytes(16)])


async def claim_all(url: str, number: int, ids: Sequence[bytes], bits: int = 16) -> None:
    async with open_index(url, bits=bits) as index:
        for batch in batches(ids, PAGE):
            await index.claims.claim(number, batch)


def _per_image(redis: RedisServer, before: dict[str, int], count: int) -> Bytes:
    after = redis.memory()
    used, rss = ((after[k] - before[k]) / count for k in ("used_memory", "used_memory_rss"))
    return used, rss


async def sizes(counts: Sequence[int], ids: dict[int, list[bytes]], step: Step) -> None:
    """Bytes an image of ours with one owner to three, and of the peers."""
    ours: dict[int, list[Bytes]] = {}
    peers: dict[str, dict[int, Bytes]] = {name: {} for name in PEERS}
    for count in counts:
        with RedisServer() as redis:
            await warm(redis.url, 16)
            before = redis.memory()
            for number in LOCATIONS:
                step(f"memory: {count:,} images, owner {number}")
                await claim_all(redis.url, number, ids[count])
                ours.setdefault(count, []).append(_per_image(redis, before, count))
        for name, commands in PEERS.items():
            step(f"memory: {count:,} images, {name}")
            if count <= STRINGS_UP_TO or commands is bucket_sets:
                peers[name][count] = await _peer(commands, ids[count])
    _print_sizes(counts, ours, peers)


async def _peer(commands: Callable[[Iterable[bytes]], list[Command]], ids: list[bytes]) -> Bytes:
    with RedisServer() as redis:
        with Packed(redis.port) as packed:
            await packed.run(commands([bytes(16)]))
            before = redis.memory()
            for batch in batches(ids, PAGE):
                await packed.run(commands(batch))
        return _per_image(redis, before, len(ids))


def _print_sizes(
    counts: Sequence[int],
    ours: dict[int, list[Bytes]],
    peers: dict[str, dict[int, Bytes]],
) -> None:
    made = table(
        "Bytes of Redis memory an image: used_memory (resident)", "", *(f"{n:,}" for n in counts)
    )
    for number in LOCATIONS:
        owners = f"{number} owner{'s' if number > 1 else ''} each"
        cells = [ours[count][number - 1] for count in counts]
        made.add_row(f"index, {owners}", *(f"{used:.1f} ({rss:.1f})" for used, rss in cells))
    further = [(ours[count][-1][0] - ours[count][0][0]) / 2 for count in counts]
    made.add_row("  each further owner", *(f"{value:.2f}" for value in further))
    for name, measured in peers.items():
        last = measured[max(measured)]
        row = [measured.get(count) for count in counts]
        made.add_row(
            name,
            *(f"{c[0]:.1f} ({c[1]:.1f})" if c else f"~{last[0]:.0f} extrapolated" for c in row),
        )
        times = [(c or last)[0] / ours[count][0][0] for c, count in zip(row, counts, strict=True)]
        made.add_row("  as many times ours", *(f"{value:.2f}" for value in times))
    out.print(made)


async def densities(step: Step, *, small: bool) -> None:
    """What an image costs by how full buckets are, on a slice of an index of that many buckets.

    The slice has its share of everything an index has (keys, the table of keys), so what it costs
    an image is what the whole would.
    """
    with RedisServer() as redis:
        limit = " ".join(map(str, redis.compact_limit()))
    made = table(
        f"What an image costs by images a bucket, measured on a slice of the buckets; {limit}",
        *("bits", "a bucket", "whole index", "bytes", "compact", "Redis µs: claim", "lookup"),
    )
    rng = random.Random(7)
    for bits, mean in DENSITIES:
        step(f"density: {bits} bits, {mean} images a bucket")
        slice_bits = SLICE_BITS - 2 * small
        wide = 128 - bits + slice_bits
        ids = sorted(rng.getrandbits(wide).to_bytes(16, "big") for _ in range(mean << slice_bits))
        made.add_row(str(bits), str(mean), f"{mean << bits:,}", *await _density(ids, bits))
    out.print(made)


async def _density(ids: list[bytes], bits: int) -> list[str]:
    """Bytes an image, the share of compact buckets, and Redis's microseconds of work."""
    with RedisServer() as redis:
        redis.client.config_resetstat()  # this frees what `warm` makes
        await warm(redis.url, bits)
        before = redis.memory()
        await claim_all(redis.url, 1, ids, bits)
        used, _ = _per_image(redis, before, len(ids))
        claim = float(redis.info("commandstats")["cmdstat_evalsha"]["usec"]) / len(ids)
        redis.client.config_resetstat()  # the scripts' own HGETs count too
        async with open_index(redis.url, bits=bits) as index:
            for batch in batches(random.Random(8).choices(ids, k=SAMPLE), PAGE):
                await index.claims.lookup(batch)
        lookup = float(redis.info("commandstats")["cmdstat_hget"]["usec_per_call"])
        keys = list(redis.client.scan_iter("glr:?:*", count=1000))
        kinds = [redis.client.object("encoding", key) for key in keys]
    compact = sum(kind != b"hashtable" for kind in kinds) / len(kinds)
    return [f"{used:.1f}", f"{compact:.1%}", f"{claim:.2f}", f"{lookup:.2f}"]
