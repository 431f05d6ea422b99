#!/usr/bin/env python3
"""Other vector indexes on one data set, built and searched on request, so that whoever measures can take turns.

    vector_peers.py FOLDER

FOLDER holds `*embeddings.f16.npy`, `queries.f32.npy` and `groundtruth.i32.npy` (nearest rows by cosine). Requests come as
lines of JSON on standard input, each is answered by one line on standard output:

    {"do": "build", "peer": NAME, "threads": N}     {"seconds", "bytes"}: of the index, with its vectors
    {"do": "find", "peer": NAME, "target": RECALL}  {"setting", "recall"}: the fastest setting that reaches the recall@10
    {"do": "search", "peer": NAME, "target": RECALL}  {"one_thread", "two_threads"}: queries a second at that setting, all
                                                    of them one at a time on one thread, and in one batch on two

or by {"skipped": REASON}.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

K = 10
M, EF_CONSTRUCTION = 16, 200
WIDTHS = (10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 272, 288, 304,
          320, 360, 400, 480, 560, 640, 800)
PROBES = (16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256)
FACTORS = (1, 2, 3, 4, 5, 6, 8, 12, 16)


class Faiss:
    """A faiss index by its factory name. `ladders` are settings, each ladder from fast to thorough."""

    def __init__(self, factory, ladders):
        self.factory, self.ladders = factory, ladders

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

    def set(self, setting, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        for key, value in setting.items():
            faiss.ParameterSpace().set_index_parameter(self.index, key, value)

    def search(self, queries):
        return self.index.search(queries, K)[1]


class Hnswlib:
    ladders = [[{"ef": width} for width in WIDTHS]]

    def build(self, base, threads):
        import hnswlib

        self.index = hnswlib.Index(space="ip", dim=base.shape[1])
        self.index.init_index(len(base), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(base, num_threads=threads)

    def bytes(self):
        return self.index.index_file_size()

    def set(self, setting, threads):
        self.index.set_ef(setting["ef"])
        self.index.set_num_threads(threads)

    def search(self, queries):
        return self.index.knn_query(queries, K)[0]


class UsearchF16:
    ladders = [[{"ef": width} for width in WIDTHS]]

    def build(self, base, threads):
        from usearch.index import Index

        self.index = Index(
            ndim=base.shape[1], metric="ip", dtype="f16", connectivity=M, expansion_add=EF_CONSTRUCTION)
        self.index.add(np.arange(len(base)), base.astype(np.float16), threads=threads)

    def bytes(self):
        return self.index.serialized_length

    def set(self, setting, threads):
        self.index.expansion_search = setting["ef"]
        self.threads = threads

    def search(self, queries):
        return np.atleast_2d(self.index.search(queries.astype(np.float16), K, threads=self.threads).keys)


BY_WIDTH = [[{"efSearch": width} for width in WIDTHS]]
PEERS = {
    "hnswlib": Hnswlib(),
    "faiss-hnsw16-flat": Faiss("HNSW16,Flat", BY_WIDTH),
    "faiss-hnsw16-fp16": Faiss("HNSW16,SQfp16", BY_WIDTH),
    "usearch-f16": UsearchF16(),
    "faiss-ivf256-flat": Faiss("IVF256,Flat", [[{"nprobe": probes} for probes in PROBES]]),
    "faiss-pq192x4fs-refined": Faiss("PQ192x4fs,RFlat", [[{"k_factor_rf": factor} for factor in FACTORS]]),
    "faiss-ivf256-pq192x4fs-refined": Faiss(
        "IVF256,PQ192x4fs,RFlat",
        [[{"nprobe": probes, "k_factor_rf": factor} for probes in PROBES] for factor in (2, 3, 4, 6, 8)]),
}


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def queries_per_second(peer, queries, setting, threads):
    peer.set(setting, threads)
    if threads > 1:
        return len(queries) / seconds(lambda: peer.search(queries))
    return len(queries) / seconds(lambda: [peer.search(queries[at:at + 1]) for at in range(len(queries))])


class Desk:
    """Answers requests."""

    def __init__(self, folder):
        self.base = np.load(next(folder.glob("*embeddings.f16.npy"))).astype(np.float32)
        self.base /= np.linalg.norm(self.base, axis=1, keepdims=True)
        self.queries = np.load(folder / "queries.f32.npy")
        self.truth = np.load(folder / "groundtruth.i32.npy")[:, :K]
        self.found = {}

    def build(self, name, threads):
        peer = PEERS[name]
        took = seconds(lambda: peer.build(self.base, threads))
        return {"seconds": took, "bytes": int(peer.bytes())}

    def recall(self, peer, setting):
        peer.set(setting, 2)
        found = peer.search(self.queries)
        return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, self.truth)]))

    def find(self, name, target):
        peer, reached, most = PEERS[name], [], 0
        for ladder in peer.ladders:
            # The first step that reaches it, by bisection: the others are slower.
            least, beyond = 0, len(ladder)
            recalls = {}
            while least < beyond:
                middle = (least + beyond) // 2
                recalls[middle] = self.recall(peer, ladder[middle])
                least, beyond = (least, middle) if recalls[middle] >= target else (middle + 1, beyond)
            most = max(most, *recalls.values())
            if least < len(ladder):
                reached.append((ladder[least], recalls[least]))
        if not reached:
            return {"skipped": f"its recall is {most:.4f} at most"}
        if len(reached) > 1:
            reached.sort(key=lambda way: -queries_per_second(peer, self.queries, way[0], 1))
        self.found[name, target], recall = reached[0]
        return {"setting": self.found[name, target], "recall": recall}

    def search(self, name, target):
        speed = [queries_per_second(PEERS[name], self.queries, self.found[name, target], threads) for threads in (1, 2)]
        return {"one_thread": speed[0], "two_threads": speed[1]}

    def answer(self, do, peer, **rest):
        try:
            return {"build": self.build, "find": self.find, "search": self.search}[do](peer, **rest)
        except ImportError as error:
            return {"skipped": f"{error.name} is not installed"}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    desk = Desk(Path(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(desk.answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
