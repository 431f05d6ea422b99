#!/usr/bin/env python3
"""Speed, recall, build time and size of other vector indexes on one data set, as JSON lines.

    vector_peers.py FOLDER [PEER ...]

FOLDER holds `*embeddings.f16.npy`, `queries.f32.npy` and `groundtruth.i32.npy` (nearest rows by cosine). Each peer is
measured at the fastest setting whose recall@10 reaches 0.95 and 0.99: all queries, one at a time on one thread, and in
one batch on two; the best of some passes counts. A peer whose library is not installed is named and skipped.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

K = 10
TARGETS = (0.95, 0.99)
PASSES = 3
M, EF_CONSTRUCTION = 16, 200
EFS = (32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 272, 288, 304, 320, 360, 400, 480,
       560, 640, 800)
FACTORS = (1, 2, 3, 4, 5, 6, 8, 12, 16)


class FaissHnsw:
    """A faiss index by its factory name, searched with a width."""

    settings, setting, build_threads = EFS, "efSearch", (2,)

    def __init__(self, factory):
        self.factory = factory

    def build(self, base, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index = faiss.index_factory(base.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        if hasattr(self.index, "hnsw"):
            self.index.hnsw.efConstruction = EF_CONSTRUCTION
        self.index.train(base)
        self.index.add(base)

    def bytes(self):
        import faiss

        return faiss.serialize_index(self.index).size

    def set(self, value, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index.hnsw.efSearch = value

    def search(self, queries):
        return self.index.search(queries, K)[1]


class FaissRefined(FaissHnsw):
    """4-bit product codes of all rows, then exact scores of `k_factor * k` candidates."""

    settings, setting = FACTORS, "k_factor"

    def set(self, value, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index.k_factor = value


class Hnswlib:
    settings, setting, build_threads = EFS, "ef", (1, 2)

    def build(self, base, threads):
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=base.shape[1])
        self.index.init_index(len(base), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(base, num_threads=threads)

    def bytes(self):
        return self.index.index_file_size()

    def set(self, value, threads):
        self.index.set_ef(value)
        self.index.set_num_threads(threads)

    def search(self, queries):
        return self.index.knn_query(queries, K)[0]


class UsearchF16:
    settings, setting, build_threads = EFS, "ef", (2,)

    def build(self, base, threads):
        from usearch.index import Index

        self.index = Index(
            ndim=base.shape[1], metric="ip", dtype="f16", connectivity=M, expansion_add=EF_CONSTRUCTION)
        self.index.add(np.arange(len(base)), base.astype(np.float16), threads=threads)

    def bytes(self):
        return self.index.serialized_length

    def set(self, value, threads):
        self.index.expansion_search = value
        self.threads = threads

    def search(self, queries):
        return np.atleast_2d(self.index.search(queries.astype(np.float16), K, threads=self.threads).keys)


PEERS = {
    "hnswlib": Hnswlib(),
    "faiss-hnsw16-flat": FaissHnsw("HNSW16,Flat"),
    "faiss-hnsw16-fp16": FaissHnsw("HNSW16,SQfp16"),
    "faiss-pq192x4fs-refined": FaissRefined("PQ192x4fs,RFlat"),
    "usearch-f16": UsearchF16(),
}


def say(**fields):
    print(json.dumps(fields), flush=True)


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def queries_per_second(search, queries):
    return len(queries) / min(seconds(lambda: search(queries)) for _ in range(PASSES))


def one_by_one(search):
    def all_of(queries):
        for at in range(len(queries)):
            search(queries[at:at + 1])

    return all_of


def measure(name, peer, base, queries, truth):
    for threads in peer.build_threads:
        took = seconds(lambda: peer.build(base, threads))
        say(peer=name, what="build", threads=threads, seconds=round(took, 3), bytes=int(peer.bytes()))
    for target in TARGETS:
        for value in peer.settings:
            peer.set(value, 2)
            found = peer.search(queries)
            recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth[:, :K])])
            if recall >= target:
                break
        else:
            say(peer=name, what="search", target=target, skipped=f"recall {recall:.4f} at most")
            continue
        batch = queries_per_second(peer.search, queries)
        peer.set(value, 1)
        single = queries_per_second(one_by_one(peer.search), queries)
        say(peer=name, what="search", target=target, setting={peer.setting: value}, recall=round(float(recall), 4),
            single_1_thread_qps=round(single, 1), batch_2_threads_qps=round(batch, 1))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, chosen = Path(sys.argv[1]), sys.argv[2:] or PEERS
    base = np.load(next(folder.glob("*embeddings.f16.npy"))).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    queries = np.load(folder / "queries.f32.npy")
    truth = np.load(folder / "groundtruth.i32.npy")
    for name in chosen:
        try:
            measure(name, PEERS[name], base, queries, truth)
        except ImportError as error:
            say(peer=name, skipped=f"{error.name} is not installed")


if __name__ == "__main__":
    main()
