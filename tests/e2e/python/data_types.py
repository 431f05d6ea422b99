"""Values of plugins' types, through the official driver as it is: `decimal` and `cidr`."""
from rethinkdb import r

from connection import answer, connect, read

given = read()
conn = connect(given)
prices = r.table("prices")
hosts = r.table("hosts")


def decimal(value):
    return {"$type$": "decimal", "value": value}


def cidr(value):
    return {"$type$": "cidr", "value": value}


def refused(query):
    try:
        return ["answered", str(query.run(conn))]
    except r.errors.ReqlError as error:
        return [type(error).__name__, str(error.message)]


def ids(query):
    return [row["id"] for row in query.run(conn)]


def write():
    """Everything is new: the plugins are asked."""
    r.table_create("prices").run(conn)
    r.table_create("hosts").run(conn)
    prices.index_create("price").run(conn)
    prices.index_create("shop_price", [r.row["shop"], r.row["price"]]).run(conn)
    hosts.index_create("net").run(conn)
    prices.index_wait().run(conn)
    hosts.index_wait().run(conn)
    texts = ["1.10", "-3", "0.1", "1e2", "1.1", "-0.25", "12345678901234567890.123456789", "0"]
    documents = [
        {"id": at, "price": decimal(text), "shop": at % 2, "nested": [{"deep": decimal(text)}]}
        for at, text in enumerate(texts)
    ]
    nets = ["10.0.0.0/8", "10.1.2.3", "10.200.0.0/16", "9.255.255.255", "11.0.0.0", "2001:db8::/32"]
    private, contains = cidr("10.0.0.0/8"), r.js("plugin.cidr_contains")
    said = {
        "inserted": prices.insert(documents).run(conn)["inserted"],
        "hosts": hosts.insert([{"id": at, "net": cidr(text)} for at, text in enumerate(nets)]).run(conn)["inserted"],
        "one_million": prices.get(0).update({"price": r.row["price"] + 999998.9}, return_changes=True).run(conn),
        "put_back": prices.get(0).update({"price": decimal("1.10")}).run(conn)["replaced"],
        "unchanged": prices.get(0).update({"price": decimal("1.1000")}).run(conn)["unchanged"],
        "made": prices.get(0)["shop"].do(r.js("plugin.decimal")).run(conn),
        "column": r.expr(["1.50", 2, decimal("3")]).map(r.js("plugin.decimal")).run(conn),
        "json": r.json('{"a": {"$type$": "decimal", "value": 1.50}}').run(conn),
        "object": r.object("$type$", "decimal", "value", "2.0").run(conn),
        "computed": r.expr(["1.0", "2.0"]).map(lambda x: {"$type$": "decimal", "value": x}).run(conn),
        "arithmetic": [
            query.run(conn)
            for query in [
                r.expr(decimal("0.1")) + decimal("0.2"),
                r.expr(decimal("0.3")) - 0.1,
                r.expr(3) * decimal("0.1"),
                r.expr(decimal("1")) / 8,
            ]
        ],
        "sum": prices["price"].sum().run(conn),
        "sum_of_field": prices.filter(r.row["price"] < 2).sum("price").run(conn),
        "avg": r.expr([decimal("0.1"), decimal("0.2"), 0.3]).avg().run(conn),
        "numbers_sum": r.expr([1, 2, decimal("0.5")]).sum().run(conn),
        "over_a_number": ids(prices.filter(r.row["price"] > 1).order_by("id")),
        "equal_to_a_number": ids(prices.filter(r.row["price"] == 1.1).order_by("id")),
        "round": r.do(decimal("2.345"), 2, r.js("plugin.decimal_round")).run(conn),
        "contained": ids(hosts.filter(lambda host: r.do(private, host["net"], contains)).order_by("id")),
        "between_edges": ids(
            hosts.between(private, r.do(private, r.js("plugin.cidr_last")), index="net", right_bound="closed").order_by("id")
        ),
    }
    keyed = [{"id": decimal(text)} for text in ["2.50", "-1", "2.5", "10"]]
    r.table_create("keyed").run(conn)
    said["keyed"] = r.table("keyed").insert(keyed).run(conn)
    said["by_key"] = r.table("keyed").get(decimal("2.500")).run(conn)
    said["keys"] = ids(r.table("keyed").order_by(index="id"))
    dear = [{"id": 100 + at, "price": decimal(f"500.{at}"), "shop": 9} for at in range(10)]
    said["dear"] = prices.insert(dear).run(conn)["inserted"]
    said["delete"] = prices.between(decimal("500"), decimal("500.5"), index="price").delete().run(conn)["deleted"]
    said["left"] = ids(prices.between(decimal("500"), decimal("501"), index="price").order_by(index="price"))
    prices.between(decimal("500"), decimal("501"), index="price").delete().run(conn)
    many = [{"id": f"many {at}", "price": decimal(f"{at}.{at:03}"), "shop": "many"} for at in range(1000)]
    said["many"] = prices.insert(many).run(conn)["inserted"]
    in_order = prices.between(["many", r.minval], ["many", r.maxval], index="shop_price").order_by(index="shop_price")
    said["many_in_order"] = ids(in_order) == [row["id"] for row in many]
    said["many_deleted"] = prices.filter({"shop": "many"}).delete().run(conn)["deleted"]
    said["refused"] = [
        refused(query)
        for query in [
            prices.insert({"price": decimal("twelve")}),
            prices.insert({"price": {"$type$": "decimal", "value": "1", "key": "x"}}),
            prices.insert({"price": {"$type$": "decimal"}}),
            prices.insert({"price": {"$type$": 7, "value": "1"}}),
            prices.insert({"price": {"$type$": "no_such_type", "value": "1"}}),
            prices.insert({"price": {"$type$": "decimal_round", "value": "1"}}),
            prices.insert({"price": decimal("1" * 100)}),
            r.expr(decimal("1")) / 0,
            r.expr(decimal("1")) + "x",
            r.expr(cidr("::1")) + 1,
            r.expr([1]) + decimal("1"),
            prices.index_create("dear", r.row["price"] > decimal("5")),
            r.expr({"a": r.expr([["$type$", "decimal"]]).coerce_to("object")}),
        ]
    ]
    return said


def look():
    """What is stored: no plugin is asked."""
    return {
        "get": prices.get(0).run(conn),
        "type": prices.get(0)["price"].type_of().run(conn),
        "text": prices.get(0)["price"].coerce_to("string").run(conn),
        "number": prices.get(0)["price"].coerce_to("number").run(conn),
        "sorted": ids(prices.order_by("price")),
        "sorted_by_index": ids(prices.order_by(index="price")),
        "backwards": ids(prices.order_by(index=r.desc("price"))),
        "by_document": ids(prices.filter(lambda row: row["price"] > prices.get(2)["price"]).order_by("id")),
        "found_by_document": prices.get_all(prices.get(0)["price"], index="price").count().run(conn),
        "groups": len(prices.group("price").count().ungroup().run(conn)),
        "distinct": prices["price"].distinct().run(conn),
        "distinct_by_index": prices.distinct(index="price").count().run(conn),
        "min": prices.min("price")["id"].run(conn),
        "max": prices.max("price")["id"].run(conn),
        "hosts": ids(hosts.order_by(index="net")),
        "mixed": r.expr([1, "a", None]).union(prices["price"].limit(1)).order_by(lambda x: x).map(lambda x: x.type_of()).run(conn),
        "refused_insert": refused(prices.insert({"id": "new", "price": decimal("1")})),
        "refused_sum": refused(prices["price"].sum()),
    }


answer(write() if given["stage"] == "write" else look())
