"""Makes a target: a database, the application's role that owns its schema, and the role that pgferry works with.

Each role may do what it has to and no more. The application's role owns schema public of the new database; nobody else
may make anything there. pgferry's role is a member of it, for only a table's owner may alter it, truncate it, or give
it a trigger, and it may make schema pgferry, which the application's role cannot touch. Neither may make databases or
roles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncpg
from pydantic import SecretStr
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, UsageError
from pgferry.operate.passwords import keep, kept_url, new_password, verifier
from pgferry.postgres.connection import Connection, connection
from pgferry.postgres.problems import explain
from pgferry.postgres.statements import statements
from pgferry.quoting import literal, quote
from pgferry.report import markdown_table
from pgferry.settings import Settings, parse_target, safe_url

SQL = statements("provision")

TARGET = "PGFERRY_TARGET"
APPLICATION = "PGFERRY_APPLICATION_URL"
"""What the lines of the file are called: pgferry's settings, so that the file can be appended to .env."""

_DATABASE_RIGHTS = {"ferry": ["CREATE", "CONNECT", "TEMPORARY"], "application": ["CONNECT", "TEMPORARY"]}

# What is an administrator's own business in a URL.
_OWN_OPTIONS = ("sslcert", "sslkey", "passfile", "user", "password", "dbname", "options")


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What there is now, and what was done for it; no password."""

    target: str
    """The URL of pgferry's role, without its password."""
    application: str
    """The URL of the application's role, without its password."""
    env_file: Path
    done: tuple[str, ...]
    """The steps that were needed, in order; none when everything was there."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return it as JSON-able values."""
        return {
            "target": self.target,
            "application": self.application,
            "env_file": str(self.env_file),
            "done": list(self.done),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Role:
    """A role to make: its password, if it is known, and whether a person has given it."""

    name: str
    password: str | None = field(repr=False)
    given: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be there."""

    admin: URL
    database: str
    application: _Role
    ferry: _Role

    def url(self, role: _Role) -> URL:
        """Return the URL by which a role connects to the database."""
        query = {name: value for name, value in self.admin.query.items() if name not in _OWN_OPTIONS}
        # Not admin.set(…): for a password that is not known, None, that keeps the administrator's.
        return URL.create(
            self.admin.drivername, role.name, role.password, self.admin.host, self.admin.port, self.database, query
        )


def default_file(settings: Settings) -> Path:
    """Return the file that gets the URLs where no other one is named."""
    return settings.home.absolute() / "provision.env"


def markdown(made: Provisioned) -> str:
    """Return what was made as Markdown; no password."""
    return "\n".join(
        [
            "## The target is provisioned",
            "",
            markdown_table(["who", "URL"], [["pgferry", made.target], ["the application", made.application]]),
            "",
            f"Both with their passwords are in `{made.env_file}`, which only its owner may read.",
            "",
            *([f"- {step}" for step in made.done] or ["Nothing was to be done: all is there."]),
            *(f"- note: {note}" for note in made.notes),
        ]
    )


def admin_url(settings: Settings) -> URL:
    """Return the administrator's URL; raises UsageError when the settings have none."""
    if settings.admin_url is None:
        raise UsageError(
            "No administrator's URL is set.",
            "Set PGFERRY_ADMIN_URL to postgresql://ADMIN:PASSWORD@HOST:5432/postgres; it is used for this only.",
        )
    return parse_target(settings.admin_url.get_secret_value())


async def provision(settings: Settings, env_file: Path) -> Provisioned:
    """Make what is missing of database, roles and grants; what is there already stays as it is.

    Passwords that no setting gives are made, and kept in `env_file` (mode 600) before the roles have them. An existing
    role keeps its password, unless a setting gives another one. Done again it changes nothing; killed at any moment,
    the next call makes the rest. Raises UsageError for names that cannot be, Permanent for a database or role that
    belongs to somebody else or has another encoding, and when a role cannot log in at the end.
    """
    admin = admin_url(settings)
    _check_names(admin, settings)
    done: list[str] = []
    async with _administering(admin, settings, admin.database or "postgres") as conn:
        await conn.execute(SQL["lock"])
        await _check_administrator(conn)
        plan = await _plan(conn, admin, settings, env_file)
        if keep(env_file, {TARGET: plan.url(plan.ferry), APPLICATION: plan.url(plan.application)}):
            done.append(f"wrote {env_file}")
        for role in (plan.application, plan.ferry):
            done += await _make_role(conn, role)
        done += await _make_member(conn, plan)
        done += await _make_database(conn, plan)
        async with _administering(admin, settings, plan.database) as inside:
            done += await _make_schema(inside, plan)
            done += await _set_search_path(inside, plan)
        notes = []
        for role in (plan.application, plan.ferry):
            done += await _check_login(conn, plan, role, settings)
            notes += await _excess(conn, role)
    unknown = [role.name for role in (plan.application, plan.ferry) if role.password is None]
    return Provisioned(
        target=safe_url(plan.url(plan.ferry)),
        application=safe_url(plan.url(plan.application)),
        env_file=env_file,
        done=tuple(done),
        notes=(*notes, *(_unknown_password(name, settings) for name in unknown)),
    )


# ---------------------------------------------------------------- what is wanted


def _check_names(admin: URL, settings: Settings) -> None:
    roles = (settings.application_role, settings.ferry_role)
    names = (*roles, settings.provision_database)
    wrong = [name for name in names if not name or len(name.encode()) > 63 or "\x00" in name]
    wrong += [name for name in roles if name.startswith("pg_") or name in ("public", "none", admin.username)]
    wrong += [name for name in (settings.provision_database,) if name in ("template0", "template1")]
    if wrong or roles[0] == roles[1]:
        raise UsageError(
            f"{wrong[0]!r} cannot be made here." if wrong else f"Both roles are called {roles[0]!r}.",
            "Set PGFERRY_PROVISION_DATABASE, PGFERRY_APPLICATION_ROLE and PGFERRY_FERRY_ROLE to three names of their"
            " own, of at most 63 bytes, neither the administrator's nor beginning with pg_.",
        )


async def _check_administrator(conn: Connection) -> None:
    who = await conn.fetchrow(SQL["administrator"])
    assert who is not None
    if not who["super"] and not (who["create_database"] and who["create_role"]):
        raise Permanent(
            f"The role {who['name']} may not make databases and roles.",
            f"Name an administrator in PGFERRY_ADMIN_URL, or let one run: ALTER ROLE {quote(who['name'])} CREATEDB"
            " CREATEROLE;",
        )
    if not who["super"] and who["major"] < 15:
        raise Permanent(
            f"On PostgreSQL {who['major']} only a superuser may take schema public from everybody, and {who['name']} is"
            " none.",
            "Name a superuser in PGFERRY_ADMIN_URL.",
        )


async def _plan(conn: Connection, admin: URL, settings: Settings, env_file: Path) -> _Plan:
    application = _known(settings.application_role, settings.application_password, env_file, APPLICATION)
    ferry = _known(settings.ferry_role, settings.ferry_password, env_file, TARGET)
    return _Plan(
        admin, settings.provision_database, await _with_password(conn, application), await _with_password(conn, ferry)
    )


def _known(name: str, given: SecretStr | None, env_file: Path, variable: str) -> _Role:
    """Return the role with the password that the settings give, or else the file."""
    if given is not None:
        verifier(given.get_secret_value())  # Refuses what cannot be a password here, before anything is written.
        return _Role(name, given.get_secret_value(), given=True)
    kept = kept_url(env_file, variable)
    if kept is not None and kept.username == name and kept.password:
        return _Role(name, str(kept.password), given=False)
    return _Role(name, None, given=False)


async def _with_password(conn: Connection, role: _Role) -> _Role:
    """Return the role with a new password where none is known and it is yet to be made."""
    if role.password is not None or await conn.fetchrow(SQL["role"], role.name) is not None:
        return role
    return replace(role, password=new_password())


# ---------------------------------------------------------------- the steps; each returns what it did


async def _make_role(conn: Connection, role: _Role) -> list[str]:
    found = await conn.fetchrow(SQL["role"], role.name)
    if found is None:
        assert role.password is not None
        password = literal(verifier(role.password))
        await conn.execute(f"CREATE ROLE {quote(role.name)} LOGIN INHERIT PASSWORD {password}")
        return [f"made role {role.name}"]
    if found["super"]:
        raise Permanent(
            f"The role {role.name} is a superuser.",
            "Name roles of their own in PGFERRY_APPLICATION_ROLE and PGFERRY_FERRY_ROLE.",
        )
    if not (found["login"] and found["inherits"]):
        await conn.execute(f"ALTER ROLE {quote(role.name)} LOGIN INHERIT")
        return [f"let role {role.name} log in, with the rights of the roles that it is a member of"]
    return []


async def _make_member(conn: Connection, plan: _Plan) -> list[str]:
    owner, member = plan.application.name, plan.ferry.name
    if await conn.fetchval(SQL["is_member"], owner, member):
        raise Permanent(f"The role {owner} is a member of {member}.", f"REVOKE {quote(member)} FROM {quote(owner)};")
    if await conn.fetchval(SQL["is_member"], member, owner):
        return []
    await conn.execute(f"GRANT {quote(owner)} TO {quote(member)}")
    return [f"made {member} a member of {owner}"]


async def _make_database(conn: Connection, plan: _Plan) -> list[str]:
    done = []
    found = await conn.fetchrow(SQL["database"], plan.database)
    if found is None:
        await conn.execute(f"CREATE DATABASE {quote(plan.database)} TEMPLATE template0 ENCODING 'UTF8'")
        done.append(f"made database {plan.database}, encoding UTF8")
    elif found["encoding"] != "UTF8":
        raise Permanent(
            f"Database {plan.database} has encoding {found['encoding']}, not UTF8, and that cannot be changed.",
            "Name another database in PGFERRY_PROVISION_DATABASE.",
        )
    for role, rights in ((plan.ferry, _DATABASE_RIGHTS["ferry"]), (plan.application, _DATABASE_RIGHTS["application"])):
        missing = [
            row["privilege"] for row in await conn.fetch(SQL["database_rights"], plan.database, role.name, rights)
        ]
        if missing:
            await conn.execute(f"GRANT {', '.join(missing)} ON DATABASE {quote(plan.database)} TO {quote(role.name)}")
            done.append(f"granted {', '.join(missing)} on database {plan.database} to {role.name}")
    return done


async def _make_schema(conn: Connection, plan: _Plan) -> list[str]:
    """Give schema public to the application's role, and to nobody else the right to make anything in it."""
    owner = plan.application.name
    found = await conn.fetchrow(SQL["schema"])
    done = []
    if found is not None and found["owner"] != owner and found["taken"]:
        raise Permanent(
            f"Schema public of database {plan.database} belongs to the role {found['owner']}: another application's.",
            "Name another database in PGFERRY_PROVISION_DATABASE, or that role in PGFERRY_APPLICATION_ROLE.",
        )
    if found is not None and found["open"]:
        await conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        done.append("took CREATE on schema public from PUBLIC")
    if found is None or found["owner"] != owner:
        async with _becoming(conn, owner):
            await conn.execute(
                f"CREATE SCHEMA public AUTHORIZATION {quote(owner)}"
                if found is None
                else f"ALTER SCHEMA public OWNER TO {quote(owner)}"
            )
        done.append(f"gave schema public to {owner}")
    return done


async def _set_search_path(conn: Connection, plan: _Plan) -> list[str]:
    # Its default begins with "$user": a role named pgferry would make the application's tables in schema pgferry.
    if await conn.fetchval(SQL["search_path"], plan.ferry.name) == "public":
        return []
    await conn.execute(
        f"ALTER ROLE {quote(plan.ferry.name)} IN DATABASE {quote(plan.database)} SET search_path = public"
    )
    return [f"set search_path of {plan.ferry.name} in {plan.database} to public"]


async def _check_login(conn: Connection, plan: _Plan, role: _Role, settings: Settings) -> list[str]:
    """Connect as the role; where a person has given a password and it is not the role's, it becomes that."""
    if role.password is None:
        return []
    try:
        await _log_in(plan.url(role), settings)
    except FerryError as error:
        if not (role.given and error.details.get("sqlstate") == "28P01"):
            raise
        await conn.execute(f"ALTER ROLE {quote(role.name)} PASSWORD {literal(verifier(role.password))}")
        await _log_in(plan.url(role), settings)
        return [f"set the password of {role.name} to the given one"]
    return []


async def _log_in(url: URL, settings: Settings) -> None:
    async with connection(url, timeout=settings.connect_timeout):
        pass


async def _excess(conn: Connection, role: _Role) -> list[str]:
    found = await conn.fetchrow(SQL["role"], role.name)
    if found is not None and found["more"]:
        return [f"The role {role.name} was there already, and may do more than it has to: see \\du {role.name}."]
    return []


def _unknown_password(name: str, settings: Settings) -> str:
    variable = "PGFERRY_FERRY_PASSWORD" if name == settings.ferry_role else "PGFERRY_APPLICATION_PASSWORD"
    return (
        f"The role {name} was there already, so its password is not known here, and its URL has none."
        f" Set {variable}: to its password, or to a new one, which it then gets."
    )


# ---------------------------------------------------------------- the administrator's sessions


@asynccontextmanager
async def _administering(admin: URL, settings: Settings, database: str) -> AsyncIterator[Connection]:
    url = admin.set(database=database)
    async with connection(url, timeout=settings.connect_timeout, application_name="pgferry provision") as opened:
        try:
            yield opened
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise explain(error, url) from error


@asynccontextmanager
async def _becoming(conn: Connection, role: str) -> AsyncIterator[None]:
    """Let an administrator who is no superuser hand something to a role: only who could become it may do that."""
    major = conn.get_server_version().major
    if await conn.fetchval(SQL["may_become"], role, "SET" if major >= 16 else "MEMBER"):
        yield
        return
    await conn.execute(f"GRANT {quote(role)} TO CURRENT_USER")
    try:
        yield
    finally:
        await conn.execute(f"REVOKE {quote(role)} FROM CURRENT_USER")
