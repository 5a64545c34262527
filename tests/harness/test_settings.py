"""Settings: which file counts, what it may say, and how one line names what is wrong in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tridiff.harness import config, profiles, settings
from tridiff.harness.engines.spec import DEFAULT_TARGET, TARGETS, UsageError
from tridiff.harness.settings import PROFILES, SCHEMA_FILE, Database, GitHub, Override, Settings, Store
from tridiff.harness.targets.table import BUILT_IN, NAME, Part

FULL = """
profile = "nightly"
target = "gfx1151"
plugins = ["kernels/mine.py", "package.module", "no:other"]
out = "results"
known_failures = "ledgers/known.toml"
timeout = 30
memory_limit = 2.5
cases = ["cases", "more/list.jsonl"]

[targets.gfx1151]
shared_bytes = 65536
threads = 512
tensor_memory = 0
processors = 20
device = "Radeon 8060S"
source = "our workstation"

[targets.sm_90]
shared_bytes = 1024.0
source = "a test"

[database]
directory = "seen"

[database.github]
owner = "someone"
repo = "attention.kernels"
artifact = "failing cases"
max_age = 1.5
directory = "downloads"

[profiles.nightly]
seconds = 10
seed = 7

[profiles.ci]
examples = 50
seed = "random"
database = true
"""

PART = 'shared_bytes = 65536\nsource = "x"\n'
"""What a table of a target must have."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(text: str, file: str = "tridiff.toml") -> str:
    """The one line that `read` says of a file with this content, in the current folder."""
    Path(file).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        settings.read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Which file


def test_without_a_file(folder: Path) -> None:
    """Nothing is set, also where a pyproject.toml is somebody else's."""
    Path("pyproject.toml").write_text("[tool.ruff]\nline-length = 80\n", encoding="utf-8")

    assert settings.read() == Settings()


def test_every_key(folder: Path) -> None:
    """A file may say all this; paths become absolute, modules and left-out plug-ins stay as they are."""
    Path("tridiff.toml").write_text(FULL, encoding="utf-8")

    assert settings.read() == Settings(
        file=folder / "tridiff.toml",
        profile="nightly",
        target="gfx1151",
        targets=(
            Part(
                name="gfx1151",
                shared_bytes=65536,
                threads=512,
                processors=20,
                device="Radeon 8060S",
                sources=dict.fromkeys(("shared_bytes", "threads", "tensor_memory", "processors", "device"), "our workstation"),
            ),
            replace(BUILT_IN["sm_90"], shared_bytes=1024, sources={**BUILT_IN["sm_90"].sources, "shared_bytes": "a test"}),
        ),
        plugins=(str(folder / "kernels/mine.py"), "package.module", "no:other"),
        out=folder / "results",
        known_failures=folder / "ledgers/known.toml",
        timeout=30,
        memory_limit=2.5,
        cases=(folder / "cases", folder / "more/list.jsonl"),
        database=Database(
            directory=folder / "seen",
            github=GitHub(
                owner="someone",
                repo="attention.kernels",
                artifact="failing cases",
                max_age=1.5,
                directory=folder / "downloads",
            ),
        ),
        profiles={"nightly": Override(seconds=10, seed=7), "ci": Override(examples=50, seed="random", database=True)},
    )


def test_figures_of_targets_are_integers(folder: Path) -> None:
    """Also where the file has 1024.0, which is one to the schema."""
    Path("tridiff.toml").write_text(FULL, encoding="utf-8")

    assert [repr(part.shared_bytes) for part in settings.read().targets] == ["65536", "1024"]


def test_nearest_file_wins(folder: Path) -> None:
    """From the current folder upwards; a pyproject.toml without our table does not count, its paths are its own folder's."""
    (folder / "inner/deep").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[tool.tridiff]\nout = "here"\n', encoding="utf-8")
    (folder / "inner/pyproject.toml").write_text('[project]\nname = "tridiff-kernels"\n', encoding="utf-8")
    upper = settings.read(start=folder / "inner/deep")
    (folder / "inner/tridiff.toml").write_text('out = "there"\n', encoding="utf-8")
    lower = settings.read(start=folder / "inner/deep")

    assert (upper.file, upper.out) == (folder / "pyproject.toml", folder / "here")
    assert (lower.file, lower.out) == (folder / "inner/tridiff.toml", folder / "inner/there")


def test_file_that_is_named(folder: Path) -> None:
    """A file that was asked for counts instead of the nearest, whatever its name; a pyproject.toml by its table."""
    (folder / "tridiff.toml").write_text('profile = "ci"\n', encoding="utf-8")
    (folder / "other.toml").write_text('profile = "deep"\n', encoding="utf-8")
    (folder / "sub").mkdir()
    (folder / "sub/pyproject.toml").write_text('[tool.tridiff]\nprofile = "gate"\n', encoding="utf-8")

    chosen = [settings.read(file).profile for file in (None, Path("other.toml"), Path("sub/pyproject.toml"))]

    assert chosen == ["ci", "deep", "gate"]


def test_both_files_in_one_folder(folder: Path) -> None:
    """Which one would count is not to be guessed."""
    Path("pyproject.toml").write_text("[tool.tridiff]\n", encoding="utf-8")

    assert said("") == "tridiff.toml: pyproject.toml beside it has [tool.tridiff] as well; keep the settings in one of them"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.toml", None, "none.toml: no such file; give the path of a settings file with --config"),
        (".", None, ".: cannot be read: Is a directory"),
        ("bad.toml", b"out = \xff", "bad.toml: not UTF-8 at byte 6; save it as UTF-8"),
        ("bad.toml", b"out =", "bad.toml: not TOML: Invalid value (at end of document)"),
        ("pyproject.toml", b"[tool.ruff]", "pyproject.toml: has no table [tool.tridiff]; add one, or give another file "),
        ("pyproject.toml", b"[tool]\ntridiff = 3", "pyproject.toml: tool.tridiff: 3: must be a table"),
    ],
)
def test_file_that_cannot_be_read(folder: Path, name: str, content: bytes | None, message: str) -> None:
    """One line with the file and what is wrong."""
    if content is not None:
        Path(name).write_bytes(content)

    with pytest.raises(UsageError) as caught:
        settings.read(Path(name))

    assert str(caught.value).startswith(message)


def test_broken_file_of_somebody_else(folder: Path) -> None:
    """A pyproject.toml that is no TOML matters only where it has a table of ours."""
    Path("pyproject.toml").write_text('dependencies = ["tridiff"\n[', encoding="utf-8")

    assert settings.read() == Settings()
    assert said("[tool.tridiff]\nout =", "pyproject.toml").startswith("pyproject.toml: not TOML: ")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("jsonschema",), "tridiff.toml: settings cannot be checked without the package jsonschema: pip install jsonschema"),
        (("tomllib", "tomli"), "tridiff.toml: cannot be read without the package tomli: pip install tomli"),
    ],
)
def test_packages_are_needed_for_a_file_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], message: str
) -> None:
    """A container without them can fuzz, and says what to install once there are settings."""
    imported = config.imported
    monkeypatch.setattr(config, "imported", lambda name: None if name in missing else imported(name))
    Path("pyproject.toml").write_text('[project]\ndependencies = ["tridiff"]\n', encoding="utf-8")
    without = settings.read()

    assert without == Settings()
    assert said('out = "x"') == message


# What is wrong in it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('profil = "ci"', "profil: unknown key: did you mean 'profile'?; keys: profile, target, targets, plugins, out, "),
        ("colour = 1", "colour: unknown key; keys: profile, "),
        ('profile = "nigthly"', "profile: 'nigthly': must be one of dev, ci, gate, nightly, deep: did you mean 'nightly'?"),
        ("profile = 1", "profile: 1: must be one of dev, ci, gate, nightly, deep"),
        ('target = "gfx924"', f"target: 'gfx924': must be one of {', '.join(TARGETS)}: did you mean 'gfx942'?; `targets` adds "),
        ('target = "hopper"', "target: 'hopper': must be one of gfx90a, gfx942, "),
        ("target = 90", "target: 90: must be one of gfx90a, gfx942, "),
        (f'target = "gfx1152"\n[targets.gfx1151]\n{PART}', f"target: 'gfx1152': must be one of {', '.join(TARGETS)}, gfx1151: "),
        (f"[targets.hopper]\n{PART}", "targets: 'hopper': must be named as Triton knows a GPU architecture: gfx1151, say, "),
        (f"[targets.sm_90a]\n{PART}", "targets: 'sm_90a': must be named as Triton knows "),
        (f'[targets."gfx942:xnack-"]\n{PART}', "targets: 'gfx942:xnack-': must be named as Triton knows "),
        ("targets = 3", "targets: 3: must be a table"),
        ('targets = ["gfx1151"]', "targets: ['gfx1151']: must be a table"),
        ("[targets]\ngfx1151 = 3", "targets.gfx1151: 3: must be a table"),
        ('[targets.gfx1151]\nsource = "x"', "targets.gfx1151.shared_bytes: missing: must be a number of bytes of at least 1"),
        ("[targets.gfx1151]\nshared_bytes = 1", "targets.gfx1151.source: missing: must be a text that says where "),
        (f"[targets.gfx1151]\n{PART}lds = 1", "targets.gfx1151.lds: unknown key; keys: shared_bytes, source, threads, "),
        ('[targets.gfx1151]\nshared_bytes = 0\nsource = "x"', "targets.gfx1151.shared_bytes: 0: must be a number of bytes "),
        (f"[targets.gfx1151]\n{PART}threads = 2048", "targets.gfx1151.threads: 2048: must be an integer from 1 to 1024"),
        (f"[targets.gfx1151]\n{PART}processors = 0", "targets.gfx1151.processors: 0: must be an integer of at least 1"),
        (f"[targets.gfx1151]\n{PART}device = ''", "targets.gfx1151.device: '': must be the name of a GPU"),
        ('plugins = "mine.py"', "plugins: 'mine.py': must be a list of files and modules"),
        ('plugins = ["a.py", 3]', "plugins[1]: 3: must be a Python file, the dotted name of a module, or no:NAME"),
        ('out = ""', "out: '': must be the path of a folder"),
        ('timeout = "ten"', "timeout: 'ten': must be a number of seconds of at least 1"),
        ("timeout = 0", "timeout: 0: must be a number of seconds of at least 1"),
        ("timeout = true", "timeout: true: must be a number of seconds of at least 1"),
        ("timeout = inf", "timeout: inf: must be finite"),
        ("timeout = 2026-01-01", "timeout: datetime.date(2026, 1, 1): must be a number of seconds of at least 1"),
        ("memory_limit = nan", "memory_limit: nan: must be finite"),
        ("memory_limit = -1", "memory_limit: -1: must be a number of GiB of at least 0.5"),
        ('cases = ["a", ""]', "cases[1]: '': must be the path of a file or folder"),
        ("database = true", "database: true: must be a table"),
        ("[database.githb]", "database.githb: unknown key: did you mean 'github'?; keys: directory, github"),
        ('[database.github]\nowner = "a"', "database.github.repo: missing: must be the name of a repository, without its owner"),
        ('[database.github]\nowner = "a"\nrepo = "a/b"', "database.github.repo: 'a/b': must be the name of a repository, "),
        ('[database.github]\nowner = "a"\nrepo = ".."', "database.github.repo: '..': must be the name of a repository, "),
        ('[database.github]\nowner = "a"\nrepo = "b"\nartifact = "../x"', "database.github.artifact: '../x': must be the name "),
        ('[database.github]\nowner = "a"\nrepo = "b"\nmax_age = 1e9', "database.github.max_age: 1000000000.0: must be a number "),
        ("[profiles.night]", "profiles.night: unknown key: did you mean 'nightly'?; keys: dev, ci, gate, nightly, deep"),
        ("[profiles.ci]\nexamples = 0", "profiles.ci.examples: 0: must be an integer of at least 1"),
        ("[profiles.ci]\nexamples = 1.5", "profiles.ci.examples: 1.5: must be an integer of at least 1"),
        ("[profiles.ci]\nseconds = 0.5", "profiles.ci.seconds: 0.5: must be a number of seconds of at least 1"),
        ('[profiles.ci]\nseed = "first"', "profiles.ci.seed: 'first': must be an integer or \"random\""),
        ("[profiles.ci]\nseed = 1.5", 'profiles.ci.seed: 1.5: must be an integer or "random"'),
        ("[profiles.ci]\ndatabase = 1", "profiles.ci.database: 1: must be true or false"),
        (f'timeout = "{"x" * 200}"', f"timeout: '{'x' * 59}...: must be a number of seconds of at least 1"),
    ],
)  # fmt: skip
def test_wrong_key_or_value(folder: Path, text: str, message: str) -> None:
    """One line: the file, the key, the value, and what is allowed; the same for both kinds of file."""
    assert said(text).startswith(f"tridiff.toml: {message}")


def test_wrong_value_in_pyproject(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys are those of the table; the file is shown as it lies, relative to the current folder if below."""
    (folder / "sub").mkdir()

    assert said("[tool.tridiff]\ntimeout = 0", "pyproject.toml").startswith("pyproject.toml: timeout: 0: must be ")
    monkeypatch.chdir(folder / "sub")
    with pytest.raises(UsageError, match=rf"^{folder}/pyproject\.toml: timeout: 0: "):
        settings.read()


# The schema


def leaves(schema: dict[str, Any], place: str = "") -> dict[str, dict[str, Any]]:
    """All parts of a schema that describe a value, by key."""
    found = {place: schema}
    for name, part in schema.get("properties", {}).items():
        found |= leaves(part, f"{place}.{name}".removeprefix("."))
    if "items" in schema:
        found |= leaves(schema["items"], f"{place}[]")
    return found


def test_schema() -> None:
    """It is a schema, allows the profiles and targets that there are, forbids unknown keys, and says what a value must be."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    parts = leaves(schema) | leaves(schema["$defs"]["profile"], "profiles.*") | leaves(schema["$defs"]["part"], "targets.*")

    Draft202012Validator.check_schema(schema)
    assert parts["profile"]["enum"] == list(parts["profiles"]["properties"]) == list(PROFILES)
    assert parts["target"]["examples"] == list(TARGETS)
    assert parts["target"]["pattern"] == parts["targets"]["propertyNames"]["pattern"] == f"^{NAME}$"
    tables = {place for place, part in parts.items() if part.get("type") == "object"}
    assert tables == {"", "targets", "targets.*", "database", "database.github", "profiles", "profiles.*"}
    assert all(parts[place]["additionalProperties"] is False for place in tables - {"targets"})
    assert parts["targets"]["additionalProperties"] == {"$ref": "#/$defs/part"}
    assert set(parts["targets.*"]["properties"]) == {*vars(BUILT_IN["sm_90"]), "source"} - {"name", "sources"}
    assert [place for place, part in parts.items() if "title" not in part and "$ref" not in part] == []


def test_guide_names_every_key() -> None:
    """`docs/reference/settings.md` has a line for each key, links the schema, and its examples are accepted."""
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs/reference/settings.md").read_text(encoding="utf-8")
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    keys = leaves(schema["properties"]["database"], "database") | leaves(schema["$defs"]["profile"], "profiles.NAME")
    keys |= leaves(schema["$defs"]["part"], "targets.NAME")

    missing = [key for key in [*schema["properties"], *keys] if f"`{key}`" not in text]

    assert missing == []
    assert "(../../harness/settings/schema.json)" in text
    assert (root / "docs/reference/../../harness/settings/schema.json").samefile(SCHEMA_FILE)


@pytest.mark.parametrize("page", ["settings.md", "parts.md"])
def test_examples_of_the_guide(folder: Path, page: str) -> None:
    """What a page shows as a settings file is accepted as one."""
    text = (Path(__file__).resolve().parents[2] / "docs/reference" / page).read_text(encoding="utf-8")
    examples = [block.split("```")[0] for block in text.split("```toml\n")[1:]]

    for example in examples:
        name = "pyproject.toml" if "[tool.tridiff" in example else "tridiff.toml"
        Path(name).write_text(example, encoding="utf-8")
        assert settings.read(Path(name)).file == folder / name
    assert len(examples) == {"settings.md": 2, "parts.md": 1}[page]


# What follows


def test_plan_without_settings(folder: Path) -> None:
    """As ever: seed 0, two minutes, gfx942, nothing remembered."""
    plan = Settings().plan()

    assert (plan.profile.name, plan.seed, plan.profile.examples, plan.profile.seconds) == ("dev", 0, None, 120.0)
    assert (plan.target, plan.out, plan.cases, plan.store) == (DEFAULT_TARGET, Path("tridiff-out"), (), None)


def test_command_line_beats_file_beats_profile() -> None:
    """In that order, for every value."""
    given = Settings(
        profile="nightly",
        target="sm_90",
        out=Path("/file"),
        cases=(Path("/list"),),
        profiles={"nightly": Override(seconds=9.0, seed=5)},
    )

    plain, filed = Settings().plan(profile="nightly", seed=1), given.plan()
    ours = given.plan(target="gfx950", examples=3, seed=6, out=Path("mine"), cases=[Path("more"), Path("/list")])
    other = given.plan(profile="ci")

    assert (plain.profile.examples, plain.profile.seconds) == (None, PROFILES["nightly"].seconds)
    assert (filed.target, filed.seed, filed.profile.seconds, filed.out) == ("sm_90", 5, 9.0, Path("/file"))
    assert (ours.target, ours.seed, ours.out) == ("gfx950", 6, Path("mine"))
    assert (ours.profile.examples, ours.profile.seconds) == (3, None)
    assert ours.cases == (Path("/list"), Path("more"))
    assert (other.profile.name, other.seed, other.profile.examples) == ("ci", 0, PROFILES["ci"].examples)


@pytest.mark.parametrize(
    ("profile", "database", "override", "directory"),
    [
        ("dev", None, None, None),
        ("dev", Database(), None, Path("out/database")),
        ("dev", Database(directory=Path("/d")), None, Path("/d")),
        ("dev", Database(directory=Path("/d")), False, None),
        ("ci", Database(directory=Path("/d")), None, None),
        ("ci", Database(directory=Path("/d")), True, Path("/d")),
        ("gate", Database(), None, None),
        ("nightly", None, None, Path("out/database")),
        ("deep", Database(directory=Path("/d")), None, Path("/d")),
        ("deep", None, False, None),
    ],
)
def test_where_cases_are_remembered(
    profile: str, database: Database | None, override: bool | None, directory: Path | None
) -> None:
    """Always, never, or where the settings name a database, as the profile says; the settings may say otherwise."""
    given = Settings(database=database, profiles={profile: Override(database=override)})

    plan = given.plan(profile=profile, out=Path("out"), cases=[Path("list")])

    assert plan.store == (None if directory is None else Store(directory=directory))


def test_downloads_of_an_artifact_lie_apart() -> None:
    """Hypothesis takes any download in a folder for the artifact's, so two artifacts have two folders."""
    stores = [
        Settings(database=Database(github=GitHub(owner="a", repo="b", artifact=artifact))).plan(out=Path("out")).store
        for artifact in ("one", "two")
    ]

    assert [store and store.github and store.github.directory for store in stores] == [
        Path("out/github/a/b/one"),
        Path("out/github/a/b/two"),
    ]


def test_gate_needs_a_list() -> None:
    """A gate without committed cases would pass or fail by what a seed happens to draw."""
    with pytest.raises(UsageError, match=r"^profile gate runs committed lists of cases first, and there is none: "):
        Settings().plan(profile="gate")
    assert Settings(cases=(Path("list"),)).plan(profile="gate").cases == (Path("list"),)


def test_unknown_profile() -> None:
    """The nearest one is suggested."""
    with pytest.raises(UsageError) as caught:
        Settings().plan(profile="gaet")

    assert str(caught.value) == "unknown profile 'gaet': did you mean 'gate'?; profiles: dev, ci, gate, nightly, deep"


# Seeds, and the profiles of Hypothesis


@pytest.mark.parametrize("name", ["dev", "ci", "gate", "nightly", "deep"])
def test_seed_of_a_profile(name: str) -> None:
    """Nightly and deep runs have a seed of their own each time, the others the same; the settings may say otherwise."""
    drawn = {profiles.seed_of(f"tridiff-{name}") for _ in range(4)}

    assert (len(drawn) > 1) is (name in {"nightly", "deep"})
    assert all(0 <= seed < 2**32 for seed in drawn)
    assert profiles.seed_of(name, Settings(profiles={name: Override(seed=12)})) == 12
    assert len({profiles.seed_of(name, Settings(profiles={name: Override(seed="random")})) for _ in range(4)}) > 1


def test_seed_of_a_profile_that_is_not_ours() -> None:
    """A host's own profile says nothing of our seeds; one that Hypothesis derived from ours is ours."""
    assert {profiles.seed_of(name) for name in ("", "default", "nightly-mine", "tridiff-mine", "host-nightly")} == {0}
    assert len({profiles.seed_of("tridiff-deep-with-verbose-verbosity") for _ in range(4)}) > 1
