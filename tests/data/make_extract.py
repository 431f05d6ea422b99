#!/usr/bin/env python3
"""Makes the files of this folder from the full data set of package embeddings.

  make_extract.py SOURCE_DIR [--rows 5000] [--queries 100] [--out DIR]

SOURCE_DIR holds `debian-packages.jsonl.zst`, `debian-embeddings.f16.npy`, `queries.f32.npy` and `queries.jsonl` as
README.md of this folder describes them. Rows and queries are taken at even distances, so that the extract has every
section and every letter of the alphabet in the proportions of the whole, and no random generator is involved: the same
source gives the same bytes. Ids are numbered anew from 0 in both, so that an id is a row number again, and the ground
truth is computed anew, because most true neighbours are not in the extract.

Needs numpy and zstandard.
"""
import argparse
import io
import json
from pathlib import Path

import numpy as np
import zstandard

TRUTH = 100  # neighbours of each query in the ground truth


def evenly(count, of):
    """`count` row numbers at even distances out of `of`, the first one included."""
    if not 0 < count <= of:
        raise SystemExit(f"cannot take {count} of {of} rows: choose between 1 and {of}")
    return [i * of // count for i in range(count)]


def json_lines(path):
    raw = open(path, "rb")
    stream = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
    return [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8")]


def write_json_lines(path, documents):
    lines = "".join(json.dumps(d, ensure_ascii=False, separators=(",", ":")) + "\n" for d in documents).encode()
    if path.suffix == ".zst":
        lines = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(lines)
    path.write_bytes(lines)


def exact_neighbours(base, queries, k):
    """Ids of the `k` nearest rows by cosine, best first, ties by id; float32, rows divided by their length."""
    base = base.astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    nearest = np.empty((len(queries), k), dtype="<i4")
    for i, query in enumerate(queries):
        # A stable sort of the negated similarities keeps equal ones in the order of their ids.
        nearest[i] = np.argsort(-(base @ query), kind="stable")[:k]
    return nearest


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("source", type=Path)
    arguments.add_argument("--rows", type=int, default=5000)
    arguments.add_argument("--queries", type=int, default=100)
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = arguments.parse_args()

    documents = json_lines(options.source / "debian-packages.jsonl.zst")
    base = np.load(options.source / "debian-embeddings.f16.npy", mmap_mode="r")
    texts = json_lines(options.source / "queries.jsonl")
    queries = np.load(options.source / "queries.f32.npy", mmap_mode="r")
    if len(documents) != len(base) or len(texts) != len(queries):
        raise SystemExit(f"{options.source}: texts and vectors differ in number; the source is damaged")

    rows = evenly(options.rows, len(base))
    asked = evenly(options.queries, len(queries))
    base = np.ascontiguousarray(base[rows])
    queries = np.ascontiguousarray(queries[asked])

    write_json_lines(options.out / "packages.jsonl.zst", [{**documents[row], "id": i} for i, row in enumerate(rows)])
    write_json_lines(options.out / "queries.jsonl", [{**texts[row], "id": i} for i, row in enumerate(asked)])
    np.save(options.out / "embeddings.f16.npy", base)
    np.save(options.out / "queries.f32.npy", queries)
    np.save(options.out / "groundtruth.i32.npy", exact_neighbours(base, queries, min(TRUTH, len(base))))


if __name__ == "__main__":
    main()
