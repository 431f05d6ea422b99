"""Functions of PhotonDB's plugins as terms of the official RethinkDB driver.

    from rethinkdb import r
    from photondb import plugin

    r.table("packages").map(lambda p: plugin.approx(p["size"], 2)).run(conn)
"""

from rethinkdb.ast import RqlTopLevelQuery

__all__ = ["plugin"]


class PluginCall(RqlTopLevelQuery):
    """A call of a plugin's function: the term ``[1000, [NAME, ARGUMENTS...], {OPTIONS}]``."""

    term_type = 1000
    statement = "plugin"


class Plugins:
    """Every attribute is a function of that name; the server says whether it has it."""

    def __getattr__(self, name):
        # Tools ask objects for names like `__wrapped__` or `_repr_html_`, and would take a call for a yes.
        if name.startswith("_"):
            raise AttributeError(f"no function of a plugin begins with an underscore: {name}")

        def call(*arguments, **options):
            return PluginCall(name, *arguments, **options)

        call.__name__ = call.__qualname__ = name
        return call

    def __repr__(self):
        return "<functions of PhotonDB's plugins>"


plugin = Plugins()
