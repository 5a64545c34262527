"""Settings and what follows from them: frozen dataclasses, None where the file says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tridiff.harness.engines.spec import DEFAULT_TARGET, UsageError, nearest
from tridiff.harness.settings.profile import DEFAULT_PROFILE, PROFILES, Profile
from tridiff.harness.targets.table import Part

OUT = Path("tridiff-out")
"""Where a run leaves its files, below the current folder, if nobody says."""
RANDOM = "random"
"""In place of a seed: another one in every run."""


@dataclass(frozen=True, kw_only=True)
class GitHub:
    """An artifact of GitHub Actions that holds the database of another machine; it is read, never written.

    `max_age`: hours until it is downloaded again. `directory`: where downloads are kept.
    """

    owner: str
    repo: str
    artifact: str = "tridiff-database"
    max_age: float = 24.0
    directory: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where failing cases are remembered: in a directory, OUT/database by default; `github` is read besides."""

    directory: Path | None = None
    github: GitHub | None = None


@dataclass(frozen=True, kw_only=True)
class Override:
    """What the file puts in place of a profile's own; `seed` may be `RANDOM`."""

    examples: int | None = None
    seconds: float | None = None
    seed: int | str | None = None
    database: bool | None = None

    def over(self, profile: Profile) -> Profile:
        """`profile` with these. One of `examples` and `seconds` replaces both: a shorter budget must not be a longer one."""
        if self.examples is not None or self.seconds is not None:
            profile = replace(profile, examples=self.examples, seconds=self.seconds)
        if self.seed is not None:
            profile = replace(profile, seed=self.seed if isinstance(self.seed, int) else None)
        return profile if self.database is None else replace(profile, database=self.database)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a file says; paths are absolute.

    `file`: which one; None without one. `targets`: parts besides the built-in ones, or in their place; they are known once
    `targets.table.add` has them. `plugins`: files and modules. `out`: where a run leaves its files. `known_failures`: the ledger
    of them. `timeout`: seconds for one case. `memory_limit`: GiB for a process that runs cases. `cases`: lists of cases to run
    first, files or folders.
    """

    file: Path | None = None
    profile: str | None = None
    target: str | None = None
    targets: tuple[Part, ...] = ()
    plugins: tuple[str, ...] = ()
    out: Path | None = None
    known_failures: Path | None = None
    timeout: float | None = None
    memory_limit: float | None = None
    cases: tuple[Path, ...] = ()
    database: Database | None = None
    profiles: Mapping[str, Override] = field(default_factory=dict)

    def profile_named(self, name: str | None = None) -> Profile:
        """The profile `name`, else the file's, else `DEFAULT_PROFILE`; with what the file puts in place of its own.

        Raises `UsageError` for an unknown name.
        """
        chosen = name or self.profile or DEFAULT_PROFILE
        if chosen not in PROFILES:
            raise UsageError(f"unknown profile {chosen!r}{nearest(chosen, PROFILES)}; profiles: {', '.join(PROFILES)}")
        return self.profiles.get(chosen, Override()).over(PROFILES[chosen])

    def plan(
        self,
        *,
        profile: str | None = None,
        target: str | None = None,
        examples: int | None = None,
        seconds: float | None = None,
        seed: int | None = None,
        out: Path | None = None,
        cases: Sequence[Path] = (),
    ) -> Plan:
        """What a run does: what the command line says, else the file, else the profile. Draws a seed where one is random.

        Raises `UsageError` for an unknown profile, or one that needs a list of cases where there is none.
        """
        chosen = Override(examples=examples, seconds=seconds, seed=seed).over(self.profile_named(profile))
        lists = (*self.cases, *cases)
        if chosen.needs_cases and not lists:
            raise UsageError(
                f"profile {chosen.name} runs committed lists of cases first, and there is none: give --cases PATH, or set "
                "`cases` in tridiff.toml; `tridiff cases` makes a list"
            )
        folder = out or self.out or OUT
        return Plan(
            profile=chosen,
            target=target or self.target or DEFAULT_TARGET,
            seed=chosen.run_seed(),
            out=folder,
            cases=tuple(dict.fromkeys(lists)),
            store=self._store(chosen, folder),
        )

    def _store(self, profile: Profile, out: Path) -> Store | None:
        if profile.database is False or (profile.database is None and self.database is None):
            return None
        given = self.database or Database()
        return Store(directory=given.directory or out / "database", github=_placed(given.github, out))


def _placed(github: GitHub | None, out: Path) -> GitHub | None:
    """`github` with a directory: Hypothesis takes any download in it for this artifact's, so each has one of its own."""
    if github is None or github.directory is not None:
        return github
    return replace(github, directory=out / "github" / github.owner / github.repo / github.artifact)


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where failing cases are remembered in a run; a `github` has its directory."""

    directory: Path
    github: GitHub | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does. `store`: where failing cases are remembered; None for nowhere."""

    profile: Profile
    target: str
    seed: int
    out: Path
    cases: tuple[Path, ...]
    store: Store | None
