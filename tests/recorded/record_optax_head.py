"""Record the public names of Optax's newest sources with their signatures, for tests/accept/test_optax_names.py.

It parses the sources and imports nothing of them. Run it by hand on a clone of Optax (recorded at commit 2edbcbe)::

    python tests/recorded/record_optax_head.py path/to/optax
"""

import ast
import json
import pathlib
import subprocess
import sys
from functools import cache

MODULES = (
    "optax",
    "optax.assignment",
    "optax.contrib",
    "optax.experimental",
    "optax.experimental.aggregating",
    "optax.losses",
    "optax.microbatching",
    "optax.perturbations",
    "optax.projections",
    "optax.schedules",
    "optax.second_order",
    "optax.transforms",
    "optax.tree",
    "optax.tree_utils",
)
ALIASES = {"optax.experimental.aggregating": "optax.experimental._aggregating"}


class Sources:
    """Finds what a name stands for, by following imports and assignments."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.bindings = cache(self._bindings)

    def path(self, module: str) -> pathlib.Path | None:
        """Return a module's file."""
        module = ALIASES.get(module, module)
        base = self.root.joinpath(*module.split("."))
        return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.exists()), None)

    def _bindings(self, module: str) -> dict[str, ast.AST | str]:
        """Return a module's names: the node that defines each, or "module:name" for what is imported."""
        path = self.path(module)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found: dict[str, ast.AST | str] = {}
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    found[name] = node
                case ast.ImportFrom(module=home, names=names, level=level):
                    home = ".".join(filter(None, [package if level else "", home or ""]))
                    found |= {alias.asname or alias.name: f"{home}:{alias.name}" for alias in names}
                case ast.Import(names=names):
                    found |= {
                        a.asname or a.name.partition(".")[0]: f"{a.name if a.asname else a.name.partition('.')[0]}:"
                        for a in names
                    }
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=value)
                ):
                    found[name] = value
        return found

    def follow(self, module: str, name: str) -> tuple[str, ast.AST] | None:
        """Return the module and the node that define a name; None for a module, or what isn't Optax's."""
        value = self.bindings(module).get(name)
        if isinstance(value, str):
            home, _, attribute = value.partition(":")
            if not home.startswith("optax") or (self.path(f"{home}.{attribute}") and attribute) or not attribute:
                return None
            return self.follow(home, attribute)
        if isinstance(value, ast.Name):
            return self.follow(module, value.id) or (module, value)
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
            home = self.bindings(module).get(value.value.id)
            if isinstance(home, str) and home.startswith("optax"):
                return self.follow(home.replace(":", ".").rstrip("."), value.attr)
        return None if value is None else (module, value)

    def record(self, module: str, name: str) -> dict | None:
        """Return what is recorded of a name; None if it is no public one."""
        found = self.follow(module, name)
        if found is None:
            value = self.bindings(module).get(name)
            inner = isinstance(value, str) and value.startswith("optax") and self.path(f"{module}.{name}")
            return {"kind": "module"} if inner or f"{module}.{name}" in ALIASES else None
        home, node = found
        match node:
            case ast.FunctionDef():
                return {"kind": "function", "parameters": parameters(node.args)}
            case ast.ClassDef():
                return self.class_record(home, node)
            case ast.Call(func=func, args=[ast.Name(id=called)]) if ast.unparse(func).endswith("partial"):
                record, given = self.record(home, called), {k.arg: ast.unparse(k.value) for k in node.keywords}
                return record | {"parameters": [[n, kind, given.get(n, d)] for n, kind, d in record["parameters"]]}
        return {"kind": "value"}

    def class_record(self, home: str, node: ast.ClassDef) -> dict:
        """Return a class's fields, its members, or the parameters of its constructor, and its methods."""
        bases = [ast.unparse(base) for base in node.bases]
        decorators = [ast.unparse(d).partition("(")[0] for d in node.decorator_list]
        record: dict = {"kind": "class"}
        fields = [
            [n.target.id, None if n.value is None else ast.unparse(n.value)]
            for n in node.body
            if isinstance(n, ast.AnnAssign)
        ]
        if any(base.endswith("NamedTuple") for base in bases):
            record["fields"] = fields
        elif any(base.endswith("Enum") for base in bases):
            record["members"] = [n.targets[0].id for n in node.body if isinstance(n, ast.Assign)]
        elif any(d.endswith("dataclass") for d in decorators):
            record["dataclass"] = fields
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        if "__init__" in methods:
            record["parameters"] = parameters(methods["__init__"].args)[1:]
        record["methods"] = {
            n: parameters(m.args)[1:] for n, m in methods.items() if not n.startswith("_") and not m.decorator_list
        }
        return record


def parameters(args: ast.arguments) -> list[list]:
    """Return (name, kind, default) for each parameter; a default is source text, or None if there isn't one."""
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + args.defaults
    result = [
        [a.arg, "positional_only" if a in args.posonlyargs else "any", d and ast.unparse(d)]
        for a, d in zip(positional, defaults, strict=True)
    ]
    if args.vararg:
        result.append([args.vararg.arg, "var_positional", None])
    result += [
        [a.arg, "keyword_only", d and ast.unparse(d)] for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)
    ]
    if args.kwarg:
        result.append([args.kwarg.arg, "var_keyword", None])
    return result


def old_names(sources: Sources, module: str) -> list[str]:
    """Return the names that a module has for now, and warns of."""
    table = sources.bindings(module).get("_deprecations")
    return [key.value for key in table.keys] if isinstance(table, ast.Dict) else []


def one_name_a_line(record: dict) -> str:
    """Return the record as JSON in which each name of a module has a line."""
    modules = []
    for module, names in record["modules"].items():
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in names.items())
        modules.append(f"{json.dumps(module)}: {{\n{lines}\n}}")
    rest = {key: value for key, value in record.items() if key != "modules"}
    together = ",\n".join(modules)
    return f'{json.dumps(rest)[:-1]}, "modules": {{\n{together}\n}}}}\n'


def main(root: pathlib.Path) -> None:
    """Write the record."""
    commit = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    sources, names = Sources(root), {}
    for module in MODULES:
        found = {n: sources.record(module, n) for n in sources.bindings(module) if not n.startswith("_")}
        names[module] = {n: record for n, record in sorted(found.items()) if record is not None}
    record = {
        "commit": commit.stdout.strip(),
        "modules": names,
        "deprecated": {module: old_names(sources, module) for module in MODULES if old_names(sources, module)},
    }
    path = pathlib.Path(__file__).with_name("optax_head.json")
    path.write_text(one_name_a_line(record))
    print(f"{sum(map(len, names.values()))} names of {len(names)} modules in {path}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
