#!/usr/bin/env python3
"""A tour of PhotonDB in a minute: `make demo`.

Starts a server with an empty data directory on free ports, imports the documents and vectors of tests/data, makes an HNSW
index, and asks a few questions, all of it with the official RethinkDB driver. Everything is gone afterwards.
"""
import argparse
import array
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rethinkdb import r

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
sys.path.insert(0, str(ROOT / "clients" / "python" / "src"))

from photondb import plugin  # noqa: E402  (found through the line above)

WIDTH = 384
# What is asked: numbers of queries of tests/data/queries.jsonl, whose vectors are known.
QUESTIONS = [39, 92, 91]
PYTHON_QUESTION = 17


def vector(number):
    """Row `number` of the query vectors. The rows of these files start at byte 128."""
    with open(DATA / "queries.f32.npy", "rb") as file:
        file.seek(128 + number * WIDTH * 4)
        row = array.array("f")
        row.frombytes(file.read(WIDTH * 4))
    if sys.byteorder == "big":
        row.byteswap()
    return row.tolist()


def heading(text):
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def show_nearest(found):
    for row in found:
        print(f"  {row['dist']:.3f}  {row['doc']['name']:<32} {row['doc']['summary'][:70]}")


def progress(name, part, last):
    """A bar on a terminal; a line for every tenth otherwise. Returns what to pass as `last` next time."""
    if sys.stderr.isatty():
        done = int(part * 40)
        print(f"\r{name} [{'=' * done}{' ' * (40 - done)}] {part:4.0%}", end="", file=sys.stderr, flush=True)
        if part >= 1:
            print(file=sys.stderr)
        return last
    tenth = int(part * 10)
    if tenth > last:
        print(f"{name}: {tenth * 10} %", file=sys.stderr)
    return max(tenth, last)


def make_index(conn):
    packages = r.table("packages")
    options = {"type": "hnsw", "dims": WIDTH, "metric": "cosine"}
    started = time.monotonic()
    packages.index_create("embedding", vector=options).run(conn)
    last = -1
    while True:
        status = packages.index_status("embedding").run(conn)[0]
        last = progress("index", 1 if status["ready"] else status.get("progress", 0), last)
        if status["ready"]:
            break
        time.sleep(0.1)
    print(f"indexed in {time.monotonic() - started:.1f} s")


def ask(conn):
    packages = r.table("packages")
    fields = {"dist": True, "doc": ["name", "summary"]}
    texts = [json.loads(line)["text"] for line in open(DATA / "queries.jsonl", encoding="utf-8")]

    for number in QUESTIONS:
        heading(f"Packages nearest to: {texts[number]}")
        nearest = packages.get_nearest(vector(number), index="embedding", max_results=3)
        show_nearest(nearest.pluck(fields).run(conn))

    heading(f"The same within the section `python`: {texts[PYTHON_QUESTION]}")
    python = {"section": "python"}
    nearest = packages.get_nearest(vector(PYTHON_QUESTION), index="embedding", max_results=3, filter=python)
    show_nearest(nearest.pluck(fields).run(conn))

    heading("Sizes, rounded by a plugin: plugin.approx(size, 2)")
    largest = packages.order_by(r.desc("size")).limit(3)
    for row in largest.map(lambda p: {"name": p["name"], "size": plugin.approx(p["size"], 2)}).run(conn):
        print(f"  {row['name']:<32} {row['size']:>16,.0f} bytes")

    heading("Sizes of some sections: plugin.quantile(sizes, [0.5, 0.99])")
    for section in ["games", "libs", "python"]:
        sizes = packages.filter({"section": section})["size"].coerce_to("array")
        median, most = plugin.quantile(sizes, [0.5, 0.99]).run(conn)
        print(f"  {section:<8} half are below {median:>12,.0f} bytes, 99 of 100 below {most:>14,.0f}")


def demo(server, plugin_dir, data):
    started = [server, "serve", "--data", data, "--plugin-dir", plugin_dir]
    started += ["--reql-port", "0", "--http-port", "0", "--rpc-port", "0"]
    process = subprocess.Popen(started, stdout=subprocess.PIPE, env={**os.environ, "PHOTONDB_LOG": "warn"}, text=True)
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"demo: the server did not start (exit code {process.wait()}); its reason is above")
        ready = json.loads(line)
        print(f"The server is ready: ReQL on port {ready['reql']}, HTTP on http://127.0.0.1:{ready['http']}/")

        heading("Import")
        subprocess.run(
            [server, "import", "--port", str(ready["reql"]), "--table", "test.packages"]
            + ["--file", DATA / "packages.jsonl.zst", "--vectors", DATA / "embeddings.f16.npy", "--field", "embedding"],
            check=True,
        )
        heading("Index")
        with r.connect("127.0.0.1", ready["reql"], db="test") as conn:
            make_index(conn)
            ask(conn)
        heading("What that took: photondb plugin list")
        subprocess.run([server, "plugin", "list", "--data", data], check=True)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main():
    arguments = argparse.ArgumentParser(description="Imports, indexes and queries the documents of tests/data.")
    arguments.add_argument("--server", required=True, help="the executable photondb")
    arguments.add_argument("--plugin-dir", required=True, help="the directory of the plugins")
    options = arguments.parse_args()
    # In the usual place for temporary files: the local socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="photondb-demo-") as data:
        try:
            demo(os.path.abspath(options.server), options.plugin_dir, data)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"demo: {' '.join(map(str, error.cmd[:3]))} failed; its reason is above")


if __name__ == "__main__":
    main()
