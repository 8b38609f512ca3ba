"""Local accounts and their links in the hub's database."""

from __future__ import annotations

import secrets

from sqlalchemy import BigInteger, Boolean, Engine, String, create_engine, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from labdock.core.accounts import (
    LINK_LIFE_S,
    Account,
    Link,
    LinkKind,
    LinkState,
    UnknownPersonError,
    token_hash,
)
from labdock.core.errors import AccountError
from labdock.core.people import check_name

KEEP_DEAD_LINKS_S = 30 * 24 * 3600
"""How long a link that can no longer be used is remembered, so that its page can say why."""


class _Base(DeclarativeBase):
    pass


class _AccountRow(_Base):
    __tablename__ = "labdock_accounts"

    identity: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), unique=True)
    password_hash: Mapped[str | None] = mapped_column(String(255))
    admin: Mapped[bool] = mapped_column(Boolean())
    created_at: Mapped[int] = mapped_column(BigInteger())
    activated_at: Mapped[int | None] = mapped_column(BigInteger())

    def account(self) -> Account:
        return Account(
            identity=self.identity,
            name=self.name,
            admin=self.admin,
            has_password=self.password_hash is not None,
            created_at=self.created_at,
            activated_at=self.activated_at,
        )


class _LinkRow(_Base):
    __tablename__ = "labdock_links"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    identity: Mapped[str] = mapped_column(String(64), index=True)
    expires_at: Mapped[int] = mapped_column(BigInteger())
    used_at: Mapped[int | None] = mapped_column(BigInteger())
    replaced_at: Mapped[int | None] = mapped_column(BigInteger())

    def link(self) -> Link:
        return Link(LinkKind(self.kind), self.identity, self.expires_at, self.used_at, self.replaced_at)


class AccountStore:
    """The accounts of one instance; every method is one transaction, safe in any thread.

    Methods block: call them in a thread from the event loop, or the hub's own open transaction
    and this one could wait for each other. *now* is always Unix seconds.
    """

    def __init__(self, db_url: str) -> None:
        """Open the hub's database at *db_url* (SQLAlchemy's form) and make the tables it lacks."""
        # SQLite lets one write at a time: wait for the hub's own transactions.
        arguments = {"timeout": 30} if db_url.startswith("sqlite") else {}
        self._engine: Engine = create_engine(db_url, connect_args=arguments, pool_pre_ping=True)
        _Base.metadata.create_all(self._engine)
        self._sessions = sessionmaker(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def add(self, name: str, *, admin: bool, now: int) -> Account:
        """A new account without a password, under a new identity.

        Raises:
            AccountError: *name* cannot be a name, or somebody has it.
        """
        check_name(name)
        row = _AccountRow(
            identity=f"local:{secrets.token_hex(8)}",
            name=name,
            password_hash=None,
            admin=admin,
            created_at=now,
            activated_at=None,
        )
        try:
            with self._sessions.begin() as session:
                session.add(row)
                session.flush()
                return row.account()
        except IntegrityError as error:
            raise AccountError(
                f"There is already somebody called {name!r}.", fix="Choose another name."
            ) from error

    def find(self, name: str) -> Account | None:
        """The account called *name*, or None."""
        with self._sessions() as session:
            row = session.scalar(select(_AccountRow).where(_AccountRow.name == name))
            return row.account() if row is not None else None

    def everybody(self) -> tuple[Account, ...]:
        """All accounts by name."""
        with self._sessions() as session:
            rows = session.scalars(select(_AccountRow).order_by(_AccountRow.name))
            return tuple(row.account() for row in rows)

    def password_hash(self, name: str) -> str | None:
        """The stored hash of *name*'s password; None if there is no such account or no password yet."""
        with self._sessions() as session:
            return session.scalar(select(_AccountRow.password_hash).where(_AccountRow.name == name))

    def make_admin(self, name: str) -> None:
        """Give the account called *name* the rights of an administrator."""
        with self._sessions.begin() as session:
            session.execute(update(_AccountRow).where(_AccountRow.name == name).values(admin=True))

    def set_password(self, name: str, password_hash: str, *, now: int) -> None:
        """Set *name*'s password; links that are still open could undo it, and are voided.

        Raises:
            UnknownPersonError: There is no such account.
        """
        with self._sessions.begin() as session:
            row = session.scalar(select(_AccountRow).where(_AccountRow.name == name))
            if row is None:
                raise UnknownPersonError(f"There is nobody called {name!r}.")
            row.password_hash = password_hash
            _void_links(session, row.identity, now=now)

    def remove(self, name: str) -> None:
        """Forget the account called *name* and its links; nothing happens if there is none."""
        with self._sessions.begin() as session:
            row = session.scalar(select(_AccountRow).where(_AccountRow.name == name))
            if row is not None:
                session.execute(delete(_LinkRow).where(_LinkRow.identity == row.identity))
                session.delete(row)

    def make_link(self, name: str, kind: LinkKind, *, now: int) -> tuple[str, int]:
        """A new link's token, which is kept nowhere, and when it expires; voids older ones of its kind.

        Raises:
            UnknownPersonError: There is no such account.
        """
        token = secrets.token_urlsafe(32)
        expires_at = now + LINK_LIFE_S[kind]
        with self._sessions.begin() as session:
            row = session.scalar(select(_AccountRow).where(_AccountRow.name == name))
            if row is None:
                raise UnknownPersonError(f"There is nobody called {name!r}.")
            session.execute(delete(_LinkRow).where(_LinkRow.expires_at < now - KEEP_DEAD_LINKS_S))
            _void_links(session, row.identity, now=now, kind=kind)
            session.add(
                _LinkRow(
                    token_hash=token_hash(token), kind=kind, identity=row.identity, expires_at=expires_at
                )
            )
        return token, expires_at

    def look_up(self, token: str, *, now: int) -> tuple[LinkState, Link | None, Account | None]:
        """What the link of *token* is good for, and whose it is; uses nothing up."""
        with self._sessions() as session:
            row = session.get(_LinkRow, token_hash(token))
            owner = session.get(_AccountRow, row.identity) if row is not None else None
            if row is None or owner is None:
                return LinkState.UNKNOWN, None, None
            link = row.link()
            return link.state(now), link, owner.account()

    def use_link(self, token: str, *, now: int, password_hash: str | None = None) -> Account | None:
        """Use the link of *token* up, set the password if one is given, and return whose account it is.

        Of any number of calls with one token, one gets the account; the others get None, as for a
        link that was not open.
        """
        hashed = token_hash(token)
        with self._sessions.begin() as session:
            # One statement decides who is first, whatever else runs at the same time.
            taken = session.execute(
                update(_LinkRow)
                .where(
                    _LinkRow.token_hash == hashed,
                    _LinkRow.used_at.is_(None),
                    _LinkRow.replaced_at.is_(None),
                    _LinkRow.expires_at > now,
                )
                .values(used_at=now)
                .returning(_LinkRow.identity)
            ).scalar_one_or_none()
            owner = session.get(_AccountRow, taken) if taken is not None else None
            if owner is None:
                return None
            owner.activated_at = owner.activated_at or now
            if password_hash is not None:
                owner.password_hash = password_hash
                _void_links(session, owner.identity, now=now)
            session.flush()
            return owner.account()


def _void_links(session: Session, identity: str, *, now: int, kind: LinkKind | None = None) -> None:
    """Void the open links of *identity*, all or those of one *kind*."""
    still_open = update(_LinkRow).where(
        _LinkRow.identity == identity, _LinkRow.used_at.is_(None), _LinkRow.replaced_at.is_(None)
    )
    if kind is not None:
        still_open = still_open.where(_LinkRow.kind == kind)
    session.execute(still_open.values(replaced_at=now))
