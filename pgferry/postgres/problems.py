"""What a driver's error means for the person who runs the move: one table, from which `explain` answers.

docs/troubleshooting.md is generated from `PROBLEMS`, so a row says all that is to be said about its condition.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from dataclasses import dataclass

import asyncpg
from sqlalchemy.engine import URL

from pgferry.errors import FerryError, Permanent, Transient, is_transient

OLDEST_SERVER = 14
"""The oldest major version of PostgreSQL that pgferry works with."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A condition, and what is said when it occurs. The first row that fits an error explains it.

    It fits when the error has one of `states` (SQLSTATEs, or their first characters), is of one of `classes`, or has
    one of the system's error `numbers`; and, if `words` is not empty, when one of these is in its text.
    `message` and `cure` may hold {server}, {database}, {user} and {detail}, the first line of what was reported.
    """

    title: str
    message: str
    cure: str
    states: tuple[str, ...] = ()
    classes: tuple[type[BaseException], ...] = ()
    numbers: tuple[int, ...] = ()
    words: tuple[str, ...] = ()


class ServerTooOld(Exception):
    """The server's version is below OLDEST_SERVER."""


_ALERTS_OF_CERTIFICATES = (
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_",
    "ALERT_UNKNOWN_CA",
    "ALERT_UNSUPPORTED_CERTIFICATE",
)
"""How OpenSSL names what a server says of a certificate (RFC 8446, section 6.2)."""


PROBLEMS = (
    # -------------------------------------------------- no conversation
    Problem(
        "The server's certificate is not trusted",
        "The TLS certificate of {server} was refused: {detail}.",
        "Name the authority's certificate by sslrootcert=FILE in the URL, or use the host name in the certificate.",
        classes=(ssl.SSLCertVerificationError,),
    ),
    Problem(
        "The server does not speak TLS",
        "PostgreSQL at {server} offers no TLS, and the URL asks for it.",
        "Turn on ssl at the server, or set sslmode=disable in the URL if the network is trusted.",
        classes=(ConnectionError,),
        words=("rejected SSL upgrade",),
    ),
    Problem(
        "The server refuses the client's certificate",
        "{server} refuses the certificate that sslcert names: {detail}.",
        "Name one by sslcert=FILE that an authority of the server (ssl_ca_file) has signed and that is valid today.",
        classes=(ssl.SSLError,),
        words=_ALERTS_OF_CERTIFICATES,
    ),
    Problem(
        "TLS failed",
        "The TLS handshake with {server} failed: {detail}.",
        "Check the server's TLS versions, and sslmode, sslcert and sslkey in the URL.",
        classes=(ssl.SSLError,),
    ),
    Problem(
        "The host is unknown",
        "The host of {server} is unknown: {detail}.",
        "Check the host name in the URL, and this machine's name service.",
        classes=(socket.gaierror,),
    ),
    Problem(
        "Nothing listens there",
        "Nothing accepts connections at {server}: {detail}.",
        "Check that PostgreSQL runs, that the port is right, and that its listen_addresses include that address.",
        classes=(ConnectionRefusedError,),
        numbers=(errno.ECONNREFUSED,),
    ),
    Problem(
        "There is no such socket",
        "There is no PostgreSQL socket at {server}: {detail}.",
        "Check that PostgreSQL runs and that host= names its unix_socket_directories.",
        classes=(FileNotFoundError, NotADirectoryError),
    ),
    Problem(
        "The network does not reach the server",
        "The network does not reach {server}: {detail}.",
        "Check the address in the URL, the route and the firewall.",
        numbers=(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL),
    ),
    Problem(
        "The server does not answer in time",
        "PostgreSQL at {server} did not answer in time.",
        "Check the address and firewalls on the way; PGFERRY_CONNECT_TIMEOUT sets how many seconds a connection may"
        " take.",
        classes=(TimeoutError,),
        numbers=(errno.ETIMEDOUT,),
    ),
    # -------------------------------------------------- not let in
    Problem(
        "The password is wrong or missing",
        "PostgreSQL at {server} does not accept the password of user {user}, or has no such user: {detail}.",
        "Check user and password in the URL; special characters in a password are percent-encoded there (@ is %40)."
        " A URL without a password takes it from PGPASSWORD or ~/.pgpass.",
        states=("28P01",),
    ),
    Problem(
        "The server does not allow this connection without TLS",
        "PostgreSQL at {server} does not allow user {user} to connect to database {database} from here without TLS:"
        " {detail}.",
        "If the server offers TLS, set sslmode=require in the URL; if it does not, add a line for this user,"
        " database and address to its pg_hba.conf and reload it.",
        states=("28000",),
        words=("no encryption", "SSL off"),
    ),
    Problem(
        "The server does not allow this connection",
        "PostgreSQL at {server} does not allow user {user} to connect to database {database} from here: {detail}.",
        "Add a line for this user, database and address to the server's pg_hba.conf and reload it.",
        states=("28000",),
        words=("pg_hba.conf",),
    ),
    Problem(
        "The server wants a client's certificate",
        "PostgreSQL at {server} lets user {user} in by a certificate only: {detail}.",
        "Name a certificate for this user and its key by sslcert=FILE and sslkey=FILE in the URL; its common name is"
        " the user's, unless the server's pg_ident.conf maps it.",
        states=("28000",),
        words=("requires a valid client certificate", "certificate authentication failed"),
    ),
    Problem(
        "The role does not exist or may not log in",
        "PostgreSQL at {server} has no login for user {user}: {detail}.",
        "Check the user in the URL, or have an administrator run CREATE ROLE … LOGIN (ALTER ROLE … LOGIN).",
        states=("28000",),
    ),
    Problem(
        "The database does not exist",
        "PostgreSQL at {server} has no database {database}.",
        "Check the name in the URL, or create it: createdb {database}.",
        states=("3D000",),
    ),
    Problem(
        "The database takes no connections",
        "Database {database} at {server} takes no connections: {detail}.",
        "Name another database, or have an administrator allow connections to it (ALTER DATABASE … ALLOW_CONNECTIONS).",
        states=("55000",),
        words=("not currently accepting connections", "not accepting connections"),
    ),
    Problem(
        "Too many connections",
        "PostgreSQL at {server} has no connection left for user {user}: {detail}.",
        "End idle clients, raise max_connections (or the role's or database's limit), or lower PGFERRY_POOL_SIZE and"
        " PGFERRY_PARALLELISM.",
        states=("53300",),
    ),
    Problem(
        "The pooler refuses the connection",
        "The pooler at {server} has no connection for user {user} to database {database}: {detail}.",
        "Check user, password and database in the URL, and see PgBouncer's log; it needs the database under"
        " [databases], the user with that password in auth_file, and room in max_client_conn and default_pool_size.",
        states=("08P01", "08006", "08003"),
        words=(
            "authentication failed",
            "does not exist",
            "no more connections allowed",
            "no such database",
            "no such user",
            "query_wait_timeout",
            "server login has been failing",
            "server_login_retry",
            "pgbouncer",
        ),
    ),
    Problem(
        "The server is starting up or shutting down",
        "PostgreSQL at {server} takes no connections at this moment: {detail}.",
        "Wait until it is up; the server's log says what it is doing.",
        states=("57P03",),
    ),
    Problem(
        "The server is too old",
        f"PostgreSQL at {{server}} is too old: {{detail}}; pgferry needs {OLDEST_SERVER} or newer.",
        f"Upgrade the server to PostgreSQL {OLDEST_SERVER} or newer, or name another target.",
        classes=(ServerTooOld,),
    ),
    Problem(
        "An option in the URL is unknown",
        "PostgreSQL at {server} does not know an option of the URL: {detail}.",
        "Remove it from the part of the URL after the question mark.",
        states=("42704", "08P01"),
        words=("unrecognized configuration parameter", "unsupported startup parameter"),
    ),
    Problem(
        "An option in the URL is wrong",
        "The URL of {server} cannot be used: {detail}.",
        "Correct the part of the URL after the question mark.",
        classes=(asyncpg.ClientConfigurationError, ValueError, OverflowError),
    ),
    Problem(
        "The pooler mixes up prepared statements",
        "Between here and PostgreSQL at {server} a pooler gives each transaction another session: {detail}.",
        "Connect to PostgreSQL itself: a move needs sessions of its own. The application behind PgBouncer in"
        " transaction mode needs max_prepared_statements there, or statement_cache_size=0 in its URL.",
        states=("26000", "42P05"),
    ),
    Problem(
        "The pooler takes no transactions",
        "Between here and PostgreSQL at {server} a pooler gives each statement another session: {detail}.",
        "Connect to PostgreSQL itself: a move needs sessions of its own. No application that uses transactions can"
        " work behind pool_mode = statement.",
        states=("08P01", "08003"),
        words=("statement pooling",),
    ),
    # -------------------------------------------------- not allowed, no room
    Problem(
        "A schema may not be written to",
        "User {user} may not use a schema of database {database} at {server}: {detail}.",
        "Since PostgreSQL 15 only a database's owner may create tables in its schema public. Let the owner or an"
        " administrator run GRANT USAGE, CREATE ON SCHEMA public TO the user, or make roles and grants by"
        " `python -m flows provision`.",
        states=("42501",),
        words=("permission denied for schema",),
    ),
    Problem(
        "A permission is missing",
        "User {user} lacks a permission in database {database} at {server}: {detail}.",
        "Have an administrator grant it: GRANT CREATE ON DATABASE for the schema pgferry, GRANT USAGE, CREATE ON"
        " SCHEMA for the tables; or use the user that owns them.",
        states=("42501",),
    ),
    Problem(
        "The server is read-only",
        "Database {database} at {server} is read-only: {detail}.",
        "Name the primary server instead of a standby, or set default_transaction_read_only off for this user.",
        states=("25006",),
    ),
    Problem(
        "The server's disk is full",
        "The disk of PostgreSQL at {server} is full: {detail}.",
        "Free space or add some; then run the same command again, it goes on where it stopped.",
        states=("53100",),
    ),
    Problem(
        "This machine's disk is full",
        "This machine, not the server, has no room left: {detail}.",
        "Free space where PGFERRY_HOME and PGFERRY_STAGING are, or point them elsewhere; then run the same command"
        " again, it goes on where it stopped.",
        numbers=(errno.ENOSPC,),
    ),
    Problem(
        "The server cannot read or write a file",
        "PostgreSQL at {server} has trouble with its files: {detail}.",
        "Read the server's log; check its disk, and who owns its data folder.",
        states=("58",),
    ),
    Problem(
        "The server is out of memory",
        "PostgreSQL at {server} is out of memory or shared memory: {detail}.",
        "Lower PGFERRY_INDEX_MEMORY or PGFERRY_PARALLELISM, or give the server more memory (a container: --shm-size).",
        states=("53200",),
    ),
    # -------------------------------------------------- interrupted
    Problem(
        "A statement took too long",
        "A statement in database {database} at {server} was cancelled: {detail}.",
        "PGFERRY_STATEMENT_TIMEOUT sets how many seconds a statement may take (0: no limit).",
        states=("57014",),
    ),
    Problem(
        "A lock was not to be had",
        "Another session holds a lock in database {database} at {server}: {detail}.",
        "End that session, or wait until it is done; pg_stat_activity and pg_locks show it.",
        states=("55P03", "55006"),
    ),
    Problem(
        "Two sessions were in each other's way",
        "PostgreSQL at {server} broke off a transaction that was in the way of another: {detail}.",
        "Run it again; if it keeps happening, see which other program writes to database {database}.",
        states=("40",),
    ),
    Problem(
        "The connection was lost",
        "The connection to {server} was lost: {detail}.",
        "Check that the server runs and read its log; then run the same command again, it goes on where it stopped.",
        states=("08", "57P01", "57P02", "57P04", "57P05", "25P03"),
        classes=(ConnectionError,),
    ),
    Problem(
        "The connection was lost",
        "The connection to {server} was lost: {detail}.",
        "Check that the server runs and read its log; then run the same command again, it goes on where it stopped.",
        classes=(asyncpg.InterfaceError,),
        words=("connection is closed", "closed in the middle", "underlying connection"),
    ),
)

UNKNOWN = Problem(
    "Another error",
    "PostgreSQL at {server}, database {database}: {detail}.",
    "The server's log may say more.",
)
"""What is said when no row fits."""


def explain(error: BaseException, url: URL) -> FerryError:
    """Return our error for a driver's: Transient or Permanent as `errors.is_transient` says, without the password.

    The caller raises it `from` the driver's error. SQLAlchemy's wrappers are looked through; a FerryError is
    returned as it is.
    """
    error = _first(error)
    if isinstance(error, FerryError):
        return error
    reported = _driver_error(error)
    problem = find_problem(reported)
    facts = {
        "server": server_of(url),
        "database": url.database or "",
        "user": url.username or "(this machine's)",
        "detail": _detail(reported),
    }
    kind = Transient if is_transient(reported) else Permanent
    return kind(
        problem.message.format(**facts),
        problem.cure.format(**facts),
        title=problem.title,
        sqlstate=getattr(reported, "sqlstate", None),
        **facts,
    )


def find_problem(error: BaseException) -> Problem:
    """Return the row of the table that fits an error of the driver or the system."""
    return next((problem for problem in PROBLEMS if _fits(problem, error)), UNKNOWN)


def server_of(url: URL) -> str:
    """Return `host:port`, or the socket's folder, of the first server that a URL names."""
    named = url.query.get("host", "")
    host = url.host or (named if isinstance(named, str) else named[0]) or "localhost"
    if host.startswith("/") or (not url.host and ":" in host):
        return host
    return f"[{host}]:{url.port or 5432}" if ":" in host else f"{host}:{url.port or 5432}"


def _fits(problem: Problem, error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None) or "-"
    fits = (
        state.startswith(problem.states)
        or isinstance(error, problem.classes)
        or (isinstance(error, OSError) and not _numbers(error).isdisjoint(problem.numbers))
    )
    return fits and (not problem.words or any(word in str(error) for word in problem.words))


def _numbers(error: OSError) -> set[int]:
    # asyncio reports a host with several addresses (localhost: ::1 and 127.0.0.1) as one OSError without a number:
    # "Multiple exceptions: [Errno 111] Connect call failed …, [Errno 111] …".
    if error.errno is not None:
        return {error.errno}
    return {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))}


def _first(error: BaseException) -> BaseException:
    # Since TLS 1.3 a server judges the client's certificate after the handshake: asyncpg tells of a lost connection.
    if isinstance(error.__cause__, ssl.SSLError) and any(
        word in str(error.__cause__) for word in _ALERTS_OF_CERTIFICATES
    ):
        return error.__cause__
    # A transaction that is left on a closed connection complains of that, in place of what closed it.
    hides = isinstance(error, asyncpg.InterfaceError) and "Transaction.__aexit__()" in str(error)
    return _first(error.__context__) if hides and error.__context__ is not None else error


def _driver_error(error: BaseException) -> BaseException:
    wrapped = getattr(error, "orig", None)  # sqlalchemy.exc.DBAPIError
    if isinstance(wrapped, BaseException):
        return wrapped.__cause__ or wrapped
    return error


def _detail(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
