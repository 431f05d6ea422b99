"""How a vector search was answered: the descriptions in its profile."""
from rethinkdb import r

from connection import answer, connect, read

given = read()


def descriptions(part):
    if isinstance(part, dict):
        if "description" in part:
            yield part["description"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from descriptions(inner)


search = r.table("packages").get_nearest(given["vector"], index="emb", max_results=10)
answer(list(descriptions(search.run(connect(given), profile=True)["profile"])))
