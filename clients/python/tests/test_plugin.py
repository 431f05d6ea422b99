"""The terms that go over the wire; no server needed."""

import copy
import json
import unittest

from rethinkdb import r
from rethinkdb.ast import ReQLEncoder

from photondb import plugin


def wire(query):
    return json.loads(ReQLEncoder().encode(query))


class PluginTerms(unittest.TestCase):
    def test_arguments_and_options(self):
        self.assertEqual(wire(plugin.approx(1.5)), [1000, ["approx", 1.5]])
        self.assertEqual(wire(plugin.quantile([1, 2], 0.5)), [1000, ["quantile", [2, [1, 2]], 0.5]])
        self.assertEqual(wire(plugin.nearest(1, metric="l2")), [1000, ["nearest", 1], {"metric": "l2"}])

    def test_within_a_function_of_a_query(self):
        term = wire(r.table("t").map(lambda row: plugin.approx(row["size"], 2)))
        variable = term[1][1][1][0][1][0]
        call = [1000, ["approx", [170, [[10, [variable]], "size"]], 2]]
        self.assertEqual(term, [38, [[15, ["t"]], [69, [[2, [variable]], call]]]])

    def test_with_the_implicit_row(self):
        term = wire(r.table("t").filter(plugin.approx(r.row["size"]) > 5))
        self.assertEqual(term[1][1][1][1], [21, [[1000, ["approx", [170, [[13, []], "size"]]]], 5]])

    def test_results_are_expressions(self):
        self.assertEqual(wire(plugin.approx(1) + 2), [24, [[1000, ["approx", 1]], 2]])

    def test_errors_show_the_call(self):
        self.assertEqual(str(plugin.approx(1)), "r.plugin('approx', 1)")

    def test_private_names_are_no_functions(self):
        self.assertFalse(hasattr(plugin, "_repr_html_"))
        copy.copy(plugin)


if __name__ == "__main__":
    unittest.main()
