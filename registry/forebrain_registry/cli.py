"""The command `forebrain-registry`, which is `forebrain registry` as well."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from forebrain_registry.collector import collect_garbage
from forebrain_registry.errors import (
    ForebrainError,
    InvalidError,
    NotFoundError,
    RegistryError,
    StorageError,
)
from forebrain_registry.lines import LineFormatter, one_line
from forebrain_registry.publishing import METADATA, copy, publish
from forebrain_registry.pulling import export, pull, recall
from forebrain_registry.records import Reference, Version, check_alias
from forebrain_registry.registry import ANY, GRACE_S, SHIPPED, Registry, places_of
from forebrain_registry.storage import path_here
from forebrain_registry.verifying import Findings, verify, verify_version, write_index

LOG_WIDTH = 140
HELP_WIDTH = 100
_HEADS = {"score": "test score"}  # for people, where a name would not say enough


def main(
    arguments: Sequence[str] | None = None, prog: str = "forebrain-registry", shipped: str | None = None
) -> int:
    """Runs one subcommand.

    Args:
        arguments: the command line after the program's name; of this process by default.
        prog: how the program is called, for its help.
        shipped: the folder of a registry that is read where no other, or `SHIPPED`, is given, and where the
            one that is given holds nothing of a name.

    Returns:
        The exit status: 0 if it did what was asked, 1 if not, 2 for a command line that makes no sense,
        130 if it was interrupted.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    if shipped and options.registry in (None, SHIPPED) and options.run in (*_LOOKING, _verify, _copy):
        options.registry = shipped
    more = shipped if options.run in _LOOKING else None
    options.places = list(dict.fromkeys(place for place in (options.registry, more) if place))
    if not options.places:
        parser.error("which registry? Give --registry URI, or set FOREBRAIN_REGISTRY.")
    try:
        status = _run_where_found(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `head` does; what is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ForebrainError, OSError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def _run_where_found(options: argparse.Namespace) -> int:
    """Runs the subcommand in the place that has what it names."""
    places = options.places
    named = getattr(options, "reference", None) or getattr(options, "name", None)
    if getattr(options, "offline", False):
        places = places[:1]  # which of them holds a name is not known without asking
    elif named and len(places) > 1:
        opened = {place: Registry(place) for place in places}
        found = places_of(list(opened.values()), named)
        places = [place for place, registry in opened.items() if registry in found]
    missing: NotFoundError | None = None
    for place in places:
        options.registry = place
        try:
            status: int = options.run(options)
            return status
        except NotFoundError as error:
            missing = missing or error
    assert missing is not None
    raise missing


def _parser(prog: str) -> argparse.ArgumentParser:
    width = min(shutil.get_terminal_size().columns - 2, HELP_WIDTH)
    formatter = functools.partial(argparse.HelpFormatter, width=width)
    parser = argparse.ArgumentParser(
        prog=prog, description="Publish and pull models.", formatter_class=formatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--registry",
        metavar="URI",
        default=os.environ.get("FOREBRAIN_REGISTRY"),
        help="a folder, s3://bucket/prefix or https://host/path (default: FOREBRAIN_REGISTRY)",
    )
    shared.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            parents=[shared],
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=formatter,
        )
        added.set_defaults(run=run)
        return added

    reference: dict[str, Any] = {"metavar": "REF", "help": "name, name@3, name@alias or name@sha256:..."}

    added = command("publish", _publish, "publish a folder as the next version of a model")
    added.add_argument("name", metavar="NAME")
    added.add_argument(
        "folder", metavar="FOLDER", help="holds model.safetensors; README.md is made if missing"
    )
    added.add_argument("--metadata", metavar="FILE", help=f"JSON or YAML (default: FOLDER/{METADATA})")
    added.add_argument("--interfaces", metavar="FOLDER", help="interfaces of the training sessions")
    added.add_argument("--alias", help="point this alias at the new version")

    added = command("list", _list, "list models, or the versions of one")
    added.add_argument("name", metavar="NAME", nargs="?")

    added = command(
        "search", _search, "find models whose name, summary, tags, species or data hold all words"
    )
    added.add_argument("words", metavar="WORD", nargs="+")

    added = command("show", _show, "show everything about a version")
    added.add_argument("reference", **reference)

    added = command("pull", _pull, "bring a version into the cache and print its folder")
    added.add_argument("reference", **reference)
    added.add_argument("--out", metavar="DIR", help="copy it to a folder that does not exist yet")
    added.add_argument("--interfaces", action="store_true", help="with the training sessions' interfaces")
    added.add_argument("--offline", action="store_true", help="use the cache alone")

    added = command("alias", _alias, "point an alias at a version")
    added.add_argument("reference", **reference)
    added.add_argument("alias", metavar="ALIAS")
    added.add_argument("--remove", action="store_true", help="take the alias away from the model")
    added.add_argument(
        "--expect", metavar="NUMBER", type=_expected, default=ANY,
        help="only if the alias stands for this version now, or for none: 'none'",
    )  # fmt: skip

    added = command("deprecate", _deprecate, "deprecate a version, so that its name alone passes over it")
    added.add_argument("reference", **reference | {"help": f"{reference['help']}; name: its newest of all"})
    choice = added.add_mutually_exclusive_group(required=True)
    choice.add_argument("--reason", metavar="TEXT")
    choice.add_argument("--undo", action="store_true")

    added = command("verify", _verify, "check every byte of all models, of one, or of one version")
    added.add_argument("reference", nargs="?", **reference)
    added.add_argument("--public-key", metavar="PEM", help="check that this key signed the version")
    added.add_argument("--identity", help="check that this Sigstore identity signed it; needs --issuer")
    added.add_argument("--issuer", metavar="URL", help="who vouches for the identity")

    added = command("sign", _sign, "sign a version with a key, or with your Sigstore identity")
    added.add_argument("reference", **reference)
    added.add_argument(
        "--private-key", metavar="PEM", help="password in FOREBRAIN_KEY_PASSWORD, if it has one"
    )

    added = command("gc", _gc, "remove blobs that no version names")
    added.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    added.add_argument(
        "--grace-hours", type=float, default=GRACE_S / 3600, metavar="H",
        help="spare younger ones (default: 24); less is safe only while nobody publishes",
    )  # fmt: skip

    added = command("copy", _copy, "copy a version to another registry, with its signatures")
    added.add_argument("reference", **reference)
    added.add_argument("target", metavar="URI", help="the other registry")

    command("index", _index, "write index.json, so that a web host can show this registry")
    return parser


def _publish(options: argparse.Namespace) -> int:
    if options.alias:
        check_alias(options.alias)
    path = path_here(options.metadata or path_here(options.folder) / METADATA)
    registry = Registry(options.registry)
    version = publish(registry, options.name, options.folder, path, options.interfaces)
    if options.alias:
        try:
            registry.set_alias(version.name, options.alias, version.number)
        except ForebrainError as error:
            raise RegistryError(
                f"{version} is published, but without its alias: {error} Then give `alias {version} "
                f"{options.alias}`."
            ) from error
    return _say(options, _summary(version), f"{version} sha256:{version.digest}")


def _list(options: argparse.Namespace) -> int:
    if options.name:
        registry = Registry(options.registry)
        deprecations, aliases = registry.deprecations(options.name), registry.aliases(options.name)
        rows = [_row(version, deprecations, aliases) for version in registry.versions(options.name)]
        return _table(
            options, rows, ("version", "created", "score", "size", "aliases", "deprecated", "summary")
        )
    rows = []
    for registry in map(Registry, options.places):
        for name, versions in registry.all_versions():
            deprecations = registry.deprecations(name)
            good = [version for version in versions if version.number not in deprecations]
            row = _row((good or versions)[-1], deprecations, registry.aliases(name))
            rows.append(row | {"versions": len(versions), "registry": registry.uri})
    return _table(options, rows, ("name", "versions", "version", "created", "score", "aliases", "summary"))


def _search(options: argparse.Namespace) -> int:
    rows = [
        _row(version, registry.deprecations(version.name), registry.aliases(version.name))
        for registry in map(Registry, options.places)
        for version in registry.search(" ".join(options.words))
    ]
    return _table(options, rows, ("name", "version", "created", "score", "species", "deprecated", "summary"))


def _show(options: argparse.Namespace) -> int:
    registry = Registry(options.registry)
    try:
        version = registry.resolve(options.reference)
        row = _row(version, registry.deprecations(version.name), registry.aliases(version.name))
        row["signatures"] = len(registry.signatures(version))
    except (StorageError, NotFoundError) as error:
        known = recall(registry, options.reference)
        if known is None:
            raise
        version = known
        print(f"{error} Shown is what the cache knows of this digest.", file=sys.stderr)
        row = _row(version, {}, {}) | dict.fromkeys(("aliases", "deprecated", "signatures"))
    details = row | {
        "id": version.record.id,
        "files": [dataclasses.asdict(stored) for stored in version.record.files],
        "interfaces": [dataclasses.asdict(stored) for stored in version.record.interfaces],
        "metadata": dataclasses.asdict(version.metadata),
    }
    if options.json:
        return _say(options, details, "")
    import yaml

    sessions = details["metadata"].pop("sessions")
    details["metadata"]["sessions"] = f"{len(sessions)}, all in --json"
    details = {_HEADS.get(name, name): value for name, value in details.items()}
    details["files"] = [f"{stored.path} ({_size(stored.size_bytes)})" for stored in version.record.files]
    details["interfaces"] = [
        f"{stored.path} ({_size(stored.size_bytes)})" for stored in version.record.interfaces
    ]
    plain = json.loads(json.dumps(details))
    print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110), end="")
    return 0


def _pull(options: argparse.Namespace) -> int:
    registry = Registry(options.registry)
    pulled = pull(registry, options.reference, interfaces=options.interfaces, offline=options.offline)
    if pulled.deprecated is not None:
        print(one_line(f"{pulled.version} is deprecated: {pulled.deprecated}"), file=sys.stderr)
    folder = export(pulled, options.out) if options.out else pulled.folder
    interfaces = folder / "interfaces" if options.out and pulled.interfaces else pulled.interfaces
    result = _summary(pulled.version) | {
        "folder": str(folder),
        "interfaces": str(interfaces) if interfaces else None,
    }
    return _say(options, result, str(folder))


def _alias(options: argparse.Namespace) -> int:
    registry = Registry(options.registry)
    version = registry.resolve(options.reference)
    number = None if options.remove else version.number
    registry.set_alias(version.name, options.alias, number, options.expect)
    if number is not None and (why := registry.deprecations(version.name).get(number)) is not None:
        print(one_line(f"{version} is deprecated: {why}"), file=sys.stderr)
    result = {"name": version.name, "alias": options.alias, "version": number}
    return _say(options, result, f"{version.name}@{options.alias} stands for {number or 'nothing any more'}")


def _deprecate(options: argparse.Namespace) -> int:
    registry = Registry(options.registry)
    reference = Reference.parse(options.reference)
    if reference == Reference(reference.name):
        # Not the newest that is not deprecated: given again, the command would deprecate one after another.
        # Nor the newest that is there, where the last is lost.
        reference = Reference(reference.name, number=registry.last_number(reference.name))
    version = registry.resolve(reference)
    before, after = registry.deprecations(version.name).get(version.number), options.reason
    if before != after:
        registry.deprecate(version.name, version.number, after)
        said = "deprecated" if after else "no longer deprecated"
    else:
        said = "deprecated already" if after else "not deprecated"
    result = {"name": version.name, "version": version.number, "deprecated": after}
    return _say(options, result, f"{version} is {said}")


def _verify(options: argparse.Namespace) -> int:
    registry = Registry(options.registry)
    wants_signature = options.public_key or options.identity or options.issuer
    version: Version | None = None
    if not options.reference:
        if wants_signature:
            raise InvalidError("a signature is of one version: give its reference.")
        findings = verify(registry)
    elif "@" in options.reference or wants_signature:
        version = registry.resolve(options.reference)
        findings = verify_version(registry, version)
    else:
        findings = verify(registry, options.reference)
    signed = None
    if version is not None and wants_signature and not findings.problems:
        from forebrain_registry.signing import Verifier, verify_signature

        verifier = Verifier(options.public_key, options.identity, options.issuer)
        # Of the one that was read: an alias may have moved since.
        signed = verify_signature(registry, str(version), verifier).digest
    _say(options, dataclasses.asdict(findings) | {"signed": signed}, _findings_text(findings, signed))
    return 1 if findings.problems else 0


def _sign(options: argparse.Namespace) -> int:
    from forebrain_registry.signing import Signer, sign

    signer = Signer(options.private_key, os.environ.get("FOREBRAIN_KEY_PASSWORD"))
    version = sign(Registry(options.registry), options.reference, signer)
    return _say(options, _summary(version), f"{version} signed")


def _gc(options: argparse.Namespace) -> int:
    registry = Registry(options.registry, grace_s=options.grace_hours * 3600)
    done = collect_garbage(registry, options.dry_run)
    verb = "would be removed" if options.dry_run else "removed"
    text = (
        f"{len(done.removed)} files ({_size(done.removed_bytes)}) {verb}, {done.kept} blobs in use, "
        f"{done.spared} too young"
    )
    return _say(options, dataclasses.asdict(done), text)


def _copy(options: argparse.Namespace) -> int:
    target = Registry(options.target)
    version = copy(Registry(options.registry), options.reference, target)
    return _say(options, _summary(version), f"{version} in {target.uri}")


def _index(options: argparse.Namespace) -> int:
    registry = Registry(options.registry)
    number = write_index(registry)
    return _say(options, {"records": number}, f"{registry.uri}/index.json names {number} records")


def _summary(version: Version) -> dict[str, Any]:
    return {"name": version.name, "version": version.number, "digest": f"sha256:{version.digest}"}


def _row(version: Version, deprecations: dict[int, str], aliases: dict[str, int]) -> dict[str, Any]:
    meta = version.metadata
    score = meta.of_test()
    return _summary(version) | {
        "created": version.record.created,
        "score": None if score is None else score.value,
        "size": version.size_bytes,
        "aliases": [alias for alias, number in aliases.items() if number == version.number],
        "deprecated": deprecations.get(version.number),
        "summary": meta.summary,
        "licence": meta.licence,
        "species": meta.species,
        "rates_hz": meta.rates_hz,
        "datasets": meta.datasets,
        "sessions": len(meta.sessions),
    }


def _say(options: argparse.Namespace, result: Any, text: str) -> int:
    print(json.dumps(result, indent=1) if options.json else text)
    return 0


def _table(options: argparse.Namespace, rows: list[dict[str, Any]], columns: Sequence[str]) -> int:
    if options.json:
        return _say(options, rows, "")
    from rich.console import Console
    from rich.table import Table

    table = Table(*(_HEADS.get(column, column) for column in columns))
    for row in rows:
        table.add_row(*(_cell(column, row[column]) for column in columns))
    width = None if sys.stdout.isatty() else LOG_WIDTH
    # Names and summaries may hold brackets, which are not markup.
    Console(width=width, highlight=False, markup=False).print(table)
    return 0


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column == "size":
        return _size(value)
    if column == "created":
        return value[:16].replace("T", " ")
    if isinstance(value, float):
        return f"{value:.3f}"
    return one_line(", ".join(value) if isinstance(value, list) else str(value))


# Those that look a name up, or list, and so may find what comes with the package.
_LOOKING = (_list, _search, _show, _pull)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.1f} KiB"


def _findings_text(findings: Findings, signed: str | None) -> str:
    lines = [f"problem: {problem}" for problem in findings.problems]
    lines.append(
        f"{findings.versions} versions, {findings.blobs} blobs, {_size(findings.checked_bytes)} read: "
        f"{len(findings.problems) or 'no'} problems; {findings.unnamed} files that no version names"
    )
    return "\n".join(lines + ([f"signed as wanted: sha256:{signed}"] if signed else []))


def _expected(text: str) -> int | None:
    return None if text == "none" else int(text)


if __name__ == "__main__":
    sys.exit(main())
