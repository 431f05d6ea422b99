"""The classes of errors, as an application sees them."""
from rethinkdb import r

from connection import answer, connect, read

given = read()


def refused(run):
    try:
        run()
    except r.errors.ReqlError as error:
        return [type(error).__name__, str(error.message)]
    return None


conn = connect(given)
queries = [r.expr(1) + "x", r.table("no_such_table"), r.expr({})["no_such_field"]]
answer(
    {
        "wrong_password": refused(lambda: r.connect("127.0.0.1", given["port"], password="guess")),
        "unknown_user": refused(lambda: r.connect("127.0.0.1", given["port"], user="nobody")),
        "errors": [refused(lambda: query.run(conn))[0] for query in queries],
    }
)
