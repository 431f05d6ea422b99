"""One story for a table of each storage engine, told by the official driver alone."""
from rethinkdb import errors, r

from connection import answer, connect, read

given = read()
conn = connect(given)


def failure(term):
    try:
        return ["no error", repr(term.run(conn))]
    except errors.ReqlError as error:
        return [type(error).__name__, error.message]


def story(name, engine, options):
    said = {}
    created = r.table_create(name, engine=engine, **options).run(conn)
    said["created"] = created["tables_created"]
    t = r.table(name)
    documents = [{"id": n, "group": n % 7, "tags": [n % 3, n % 5], "text": "x" * (n % 300)} for n in range(2000)]
    said["inserted"] = t.insert(documents).run(conn)["inserted"]
    said["conflict"] = t.insert({"id": 5}).run(conn)["errors"]
    said["get"] = t.get(42).run(conn)
    said["missing"] = t.get(-1).run(conn)
    said["get_all"] = sorted(row["id"] for row in t.get_all(3, 1999, 4000).run(conn))
    said["count"] = t.count().run(conn)
    said["filter"] = t.filter(lambda row: row["group"] == 3).count().run(conn)
    said["first"] = [row["id"] for row in t.order_by(index="id").limit(3).run(conn)]
    said["last"] = [row["id"] for row in t.order_by(index=r.desc("id")).limit(3).run(conn)]
    said["between"] = t.between(100, 110).count().run(conn)
    t.index_create("group").run(conn)
    t.index_create("tags", multi=True).run(conn)
    t.index_wait().run(conn)
    said["by_index"] = sorted(row["id"] for row in t.get_all(3, index="group").limit(4).run(conn))
    said["index_between"] = t.between(2, 4, index="group").count().run(conn)
    said["index_order"] = [row["group"] for row in t.order_by(index=r.desc("group")).limit(2).run(conn)]
    said["multi"] = t.get_all(4, index="tags").count().run(conn)
    said["updated"] = t.get_all(3, index="group").update({"group": 100}).run(conn)["replaced"]
    said["moved"] = [t.get_all(group, index="group").count().run(conn) for group in (3, 100)]
    said["deleted"] = t.get_all(100, index="group").delete().run(conn)["deleted"]
    said["left"] = [t.count().run(conn), t.get_all(100, index="group").count().run(conn)]
    # Larger than a message between the processes.
    large = "ab" * 2_000_000
    said["large"] = t.insert({"id": "large", "text": large}).run(conn)["inserted"]
    said["large_back"] = [t.get("large")["text"].run(conn) == large, sum(1 for _ in t.run(conn))]
    said["soft"] = t.insert({"id": "soft"}, durability="soft").run(conn)["inserted"]
    said["sync"] = t.sync().run(conn)
    t.index_drop("tags").run(conn)
    said["indexes"] = t.index_list().run(conn)
    config, status, info = t.config().run(conn), t.status().run(conn), t.info().run(conn)
    said["estimate"] = info["doc_count_estimates"]
    shown = [config["engine"], config["engine_options"], status["engine"], info["engine"], status["status"]]
    said["dropped"] = r.table_drop(name).run(conn)["tables_dropped"]
    return said, shown


stories, shown = {}, {}
for engine, options in given["engines"].items():
    stories[engine], shown[engine] = story(f"t_{engine}", engine, options)
answer({
    "stories": stories,
    "shown": shown,
    "unknown_engine": failure(r.table_create("u", engine="nonsense")),
    "unknown_option": failure(r.table_create("u", engine="redb", options={"cash_mb": 1})),
    "wrong_option": failure(r.table_create("u", engine="redb", options={"cache_mb": "much"})),
    "default_option": failure(r.table_create("u", options={"cache_mb": 1})),
    "no_object": failure(r.table_create("u", engine="redb", options=1)),
    "tables": r.table_list().run(conn),
})
