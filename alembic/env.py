"""Runs the migrations: on a connection that is handed in, on the target of pgferry's settings, or as SQL (`--sql`)."""

from __future__ import annotations

import asyncio
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import async_engine_from_config

from pgferry.sample.models import Base
from pgferry.settings import load_settings

config = context.config
given: Connection | None = config.attributes.get("connection")

# In-process the caller has set up logging; fileConfig would close its handlers.
if given is None and config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)


async def target_url() -> URL:
    """Return the target of the settings; without one, the embedded server's, which is started when needed."""
    settings = load_settings()
    url = settings.target_url()
    if url is None:
        from pgferry.postgres import embedded

        url = await embedded.create_database(embedded.start(settings.home), embedded.DATABASE)
    return url


def run_offline() -> None:
    """Write the SQL to standard output; needs no server."""
    context.configure(
        dialect_name="postgresql",
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_on(connection: Connection) -> None:
    """Run the migrations on an open connection, each in a transaction of its own."""
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_on_target() -> None:
    """Connect to the target and run the migrations there."""
    # The URL goes past the ini file, whose interpolation would trip over a % in the password.
    options = config.get_section(config.config_ini_section, {}) | {"sqlalchemy.url": await target_url()}
    engine = async_engine_from_config(options, prefix="sqlalchemy.", poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run_on)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    run_offline()
elif given is not None:
    run_on(given)
else:
    asyncio.run(run_on_target())
