"""Documents, a vector index and searches, with nothing but the official driver."""
import json

from rethinkdb import r

from connection import answer, connect, read, vectors

given = read()
queries = vectors(given["queries"], "f")
with open(given["documents"], encoding="utf-8") as lines:
    documents = [json.loads(line) for line in lines]
for document, vector in zip(documents, vectors(given["vectors"], "e")):
    document["emb"] = vector

conn = connect(given)
said = {"server": conn.server()["name"]}
said["db"] = r.db_create("shop").run(conn)["dbs_created"]
conn.use("shop")
said["table"] = r.table_create("packages").run(conn)["tables_created"]
packages = r.table("packages")

inserted = [packages.insert(documents[at : at + 250]).run(conn) for at in range(0, len(documents), 250)]
said["inserted"] = sum(result["inserted"] for result in inserted)
said["errors"] = sum(result["errors"] for result in inserted)
said["again"] = packages.insert(documents[0]).run(conn)["errors"]
said["count"] = packages.count().run(conn)

said["created"] = packages.index_create(
    "emb", r.row["emb"], vector={"type": "hnsw", "dims": 384, "metric": "cosine"}
).run(conn)["created"]
status = packages.index_wait("emb").run(conn)[0]
said["ready"] = status["ready"]
said["indexes"] = packages.index_list().run(conn)


def nearest(query, **options):
    return packages.get_nearest(query, index="emb", **options)


def found(rows):
    return [[row["doc"]["id"], row["dist"]] for row in rows]


said["single"] = [found(nearest(query, max_results=10).run(conn)) for query in queries]
said["batch"] = [found(rows) for rows in nearest(queries, max_results=10).run(conn)]
said["whole"] = nearest(queries[0], max_results=1).run(conn)[0]["doc"] in documents
said["default_results"] = len(nearest(queries[0]).run(conn))

some = queries[:5]
said["in_section"] = [found(nearest(q, max_results=10, filter={"section": "python"}).run(conn)) for q in some]
said["large"] = [found(nearest(q, max_results=10, filter=r.row["size"] > 20000).run(conn)) for q in some]
said["three"] = [found(nearest(q, max_results=10, filter=lambda p: p["id"] < 3).run(conn)) for q in some]
said["none"] = found(nearest(queries[0], max_results=10, filter={"section": "no such section"}).run(conn))
said["profile"] = json.dumps(nearest(queries[0], max_results=10).run(conn, profile=True)["profile"])

# What changes is found as it is now, at once.
first = said["single"][0][0][0]
said["deleted"] = packages.get(first).delete().run(conn)["deleted"]
said["after_delete"] = found(nearest(queries[0], max_results=10).run(conn))
moved = said["single"][1][9][0]
said["updated"] = packages.get(moved).update({"emb": queries[0]}).run(conn)["replaced"]
said["after_update"] = found(nearest(queries[0], max_results=10).run(conn))
said["unset"] = packages.get(moved).replace(r.row.without("emb")).run(conn)["replaced"]
said["after_unset"] = found(nearest(queries[0], max_results=10).run(conn))
said["put_back"] = packages.insert(documents[first]).run(conn)["inserted"]
said["after_insert"] = found(nearest(queries[0], max_results=10).run(conn))


def refused(query):
    try:
        query.run(conn)
    except r.errors.ReqlError as error:
        return [type(error).__name__, str(error.message)]
    return None


said["mistakes"] = [
    refused(nearest([1.0, 2.0])),
    refused(packages.get_nearest(queries[0], index="absent")),
    refused(nearest(queries[0], max_results=0)),
    refused(nearest("text")),
    refused(packages.index_create("bad", r.row["emb"], vector={"type": "hnsw", "dims": 384, "metric": "taxicab"})),
    refused(packages.index_create("bad", r.row["emb"], vector={"type": "nothing", "dims": 384, "metric": "l2"})),
    refused(packages.index_create("bad", r.row["emb"], vector={"type": "hnsw", "dims": 384, "metric": "l2", "x": 1})),
]
said["indexes_at_the_end"] = packages.index_list().run(conn)
said["dropped"] = packages.index_drop("emb").run(conn)["dropped"]
said["without"] = refused(nearest(queries[0]))
answer(said)
