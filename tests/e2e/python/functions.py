"""Plugins' functions: by their name in `r.js`, as unmodified drivers can, and as terms of the add-on."""
from rethinkdb import r

from connection import answer, connect, read

given = read()
conn = connect(given)
numbers = r.table("numbers")
approx = r.js("plugin.approx")


def refused(query):
    try:
        query.run(conn)
    except r.errors.ReqlError as error:
        return [type(error).__name__, str(error.message)]
    return None


def by_id(query):
    return query.run(conn, array_limit=200_000)


rows = numbers.order_by(index="id")
said = {
    "map": by_id(rows.map(lambda row: row["x"]).map(approx).coerce_to("array")),
    "do": by_id(rows.map(lambda row: r.do(row["x"], 3, approx)).coerce_to("array")),
    "range": by_id(r.range(given["count"]).map(approx).coerce_to("array")),
    "streamed": list(rows.map(lambda row: r.do(row["x"], 3, approx)).run(conn)),
    "in_filter": numbers.filter(lambda row: r.do(row["x"], 1, approx) == 100000).count().run(conn),
    "in_update": numbers.get(7).update(lambda row: {"rounded": r.do(row["x"], 2, approx)}, return_changes=True).run(conn),
    "one": r.do(123.456, 2, approx).run(conn),
    "array": r.do([1.26, 123.456], 2, approx).run(conn),
    "quantile": r.do([1, 2, 3, 4, 5], 0.5, r.js("plugin.quantile")).run(conn),
    "zscore": r.do(7, 5, 2, r.js("plugin.zscore")).run(conn),
    "mean": r.do([1, 2, 6], r.js("plugin.mean")).run(conn),
    "default": r.do([], r.js("plugin.mean")).default("nothing").run(conn),
}
said["refused"] = [
    refused(r.do("text", approx)),
    refused(r.do(1, 2, 3, 4, approx)),
    refused(r.do(1, r.js("plugin.no_such_function"))),
    refused(r.do(1, r.js("(function(x) { return x; })"))),
    refused(r.do(None, approx)),
]

# Only now: everything before worked without it.
from photondb import plugin  # noqa: E402

said["term"] = by_id(rows.map(lambda row: plugin.approx(row["x"], 3)).coerce_to("array"))
said["term_error"] = refused(r.expr(1).do(lambda x: plugin.approx("text")))
answer(said)
