"""Everybody's accounts in the hub's database: who may come in or asks to, and the links of local accounts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Engine,
    String,
    Text,
    create_engine,
    delete,
    func,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.schema import CreateColumn

from labdock.core.accounts import (
    LINK_LIFE_S,
    Account,
    Link,
    LinkKind,
    LinkState,
    Standing,
    UnknownPersonError,
    token_hash,
)
from labdock.core.admission import MOST_WAITING, Presented, name_from
from labdock.core.errors import AccountError
from labdock.core.login import LOCAL
from labdock.core.people import check_name

KEEP_REQUESTS_S = 30 * 24 * 3600
"""How long somebody waits for approval before they have to ask again."""

KEEP_DEAD_LINKS_S = 30 * 24 * 3600
"""How long a link that can no longer be used is remembered, so that its page can say why."""


VISIT = "visit:"
"""How the identities of those begin whom the command line makes for a moment."""


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
    # Later than the first version: a database that lacks them is given them, with these defaults.
    standing: Mapped[str] = mapped_column(String(16), server_default=Standing.ADDED.value)
    login: Mapped[str] = mapped_column(String(255), server_default="")
    email: Mapped[str] = mapped_column(String(255), server_default="")
    full_name: Mapped[str] = mapped_column(String(255), server_default="")
    groups: Mapped[str] = mapped_column(Text(), server_default="[]")

    def account(self, aliases: Iterable[str] = ()) -> Account:
        return Account(
            identity=self.identity,
            name=self.name,
            admin=self.admin,
            has_password=self.password_hash is not None,
            created_at=self.created_at,
            activated_at=self.activated_at,
            standing=Standing(self.standing),
            login=self.login,
            email=self.email,
            full_name=self.full_name,
            groups=frozenset(json.loads(self.groups)),
            aliases=frozenset(aliases),
        )

    def show(self, presented: Presented) -> None:
        """Keep what a provider says now."""
        self.login, self.email = presented.login[:255], presented.email[:255]
        self.full_name = presented.full_name[:255]
        self.groups = json.dumps(sorted(presented.groups))


class _SignInRow(_Base):
    """Which account an identity at a provider belongs to."""

    __tablename__ = "labdock_sign_ins"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)


class _AliasRow(_Base):
    """Which account a changeable name at a provider belongs to: the one that showed it first.

    ``alias`` begins with the provider: "github mia".
    """

    __tablename__ = "labdock_aliases"

    alias: Mapped[str] = mapped_column(String(320), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)


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


_WAITING = select(func.count()).where(_AccountRow.standing == Standing.WAITING)


class AccountStore:
    """The accounts of one instance; every method is one transaction, safe in any thread.

    Methods block: call them in a thread from the event loop, or the hub's own open transaction
    and this one could wait for each other. *now* is always Unix seconds.
    """

    def __init__(self, db_url: str, method: str = LOCAL) -> None:
        """Open the hub's database at *db_url* (SQLAlchemy's form) and make the tables it lacks.

        *method* is how people sign in now; names that were shown by another one mean nobody.
        """
        self._method = method
        # SQLite lets one write at a time: wait for the hub's own transactions.
        arguments = {"timeout": 30} if db_url.startswith("sqlite") else {}
        self._engine: Engine = create_engine(db_url, connect_args=arguments, pool_pre_ping=True)
        _Base.metadata.create_all(self._engine)
        self._add_missing_columns()
        self._sessions = sessionmaker(self._engine)

    def _add_missing_columns(self) -> None:
        """Give the accounts of an earlier version the columns that came later."""
        table = _AccountRow.__tablename__
        present = {column["name"] for column in inspect(self._engine).get_columns(table)}
        with self._engine.begin() as connection:
            for column in _Base.metadata.tables[table].columns:
                if column.name not in present:
                    declared = CreateColumn(column).compile(dialect=self._engine.dialect)
                    connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {declared}"))

    @property
    def engine(self) -> Engine:
        """The connections to the database, for what else is kept in it."""
        return self._engine

    def close(self) -> None:
        self._engine.dispose()

    def add(self, name: str, *, admin: bool, now: int, kind: str = f"{LOCAL}:") -> Account:
        """A new account without a password, under a new identity that begins with *kind*.

        Raises:
            AccountError: *name* cannot be a name, or somebody has it.
        """
        check_name(name)
        row = _AccountRow(
            identity=f"{kind}{secrets.token_hex(8)}",
            name=name,
            password_hash=None,
            admin=admin,
            created_at=now,
            activated_at=None,
            standing=Standing.ADDED,
            login="",
            email="",
            full_name="",
            groups="[]",
        )
        try:
            with self._sessions.begin() as session:
                session.add(row)
                session.flush()
                return self._account(session, row)
        except IntegrityError as error:
            raise AccountError(
                f"There is already somebody called {name!r}.", fix="Choose another name."
            ) from error

    def expect(self, login: str, *, name: str, admin: bool, now: int) -> Account:
        """An account for whoever signs in next as *login* ; they get the account called *name*.

        An account of that name that nobody signs in to so yet keeps home and history.

        Raises:
            AccountError: *name* cannot be a name, or *login* or *name* belongs to somebody who signs in so.
        """
        check_name(name)
        alias = self._alias(login)
        try:
            with self._sessions.begin() as session:
                owner = session.get(_AliasRow, alias)
                row = session.scalar(select(_AccountRow).where(_AccountRow.name == name))
                if owner is not None and (
                    row is None or owner.identity != row.identity or self._signs_in(session, owner.identity)
                ):
                    holder = session.get(_AccountRow, owner.identity)
                    raise AccountError(
                        f"{login} is known here already, as {holder.name if holder else 'somebody'}.",
                        fix="`labdock users list` shows everybody.",
                    )
                if row is not None and self._signs_in(session, row.identity):
                    raise AccountError(
                        f"There is already somebody called {name!r}.", fix="Choose another name."
                    )
                if row is None:
                    row = _AccountRow(
                        identity=f"expected:{secrets.token_hex(8)}",
                        name=name,
                        password_hash=None,
                        admin=admin,
                        created_at=now,
                        activated_at=None,
                        standing=Standing.ADDED,
                        login=login,
                        email="",
                        full_name="",
                        groups="[]",
                    )
                    session.add(row)
                row.admin = row.admin or admin
                row.standing = Standing.ADDED
                # Whoever set one may be somebody else, who asked for the name; it opens nothing any more.
                row.password_hash = None
                if owner is None:
                    session.add(_AliasRow(alias=alias, identity=row.identity))
                session.flush()
                return self._account(session, row)
        except IntegrityError as error:
            raise AccountError(f"{name!r} was just added.", fix="Look again.") from error

    def name_for(self, login: str) -> str:
        """What whoever signs in next as *login* is to be called: the name they are expected by, or a new one.

        Nobody gets the account of somebody else whose name is the same by chance.
        """
        with self._sessions() as session:
            owner = session.get(_AliasRow, self._alias(login))
            row = session.get(_AccountRow, owner.identity) if owner is not None else None
            return (
                row.name
                if row is not None
                else name_from(login, set(session.scalars(select(_AccountRow.name))))
            )

    def recognise(self, presented: Presented) -> tuple[Account | None, frozenset[str]]:
        """Whose account *presented* opens, with what the provider says now kept in it; and the names that
        others showed first.

        An account that was made for a login which nobody has used yet becomes theirs for good.
        """
        with self._sessions.begin() as session:
            found = session.get(_SignInRow, presented.identity)
            rows = {name: session.get(_AliasRow, self._alias(name)) for name in presented.names}
            identity = found.identity if found is not None else None
            if identity is None:
                # Expected here, and not yet by anybody's identity: first come by the name it was made for.
                for expected in filter(None, rows.values()):
                    if not self._signs_in(session, expected.identity):
                        identity = expected.identity
                        session.add(_SignInRow(key=presented.identity, identity=identity))
                        break
            row = session.get(_AccountRow, identity) if identity is not None else None
            if row is not None:
                row.show(presented)
                for name, bound in rows.items():
                    if bound is None:
                        session.add(_AliasRow(alias=self._alias(name), identity=row.identity))
                session.flush()
            taken = {
                name
                for name, bound in rows.items()
                if bound is not None and (row is None or bound.identity != row.identity)
            }
            return (None if row is None else self._account(session, row)), frozenset(taken)

    def enrol(self, presented: Presented, standing: Standing, *, now: int) -> Account:
        """A new account for *presented*, under a name that nobody has, with the aliases that nobody showed.

        Raises:
            AccountError: Too many wait already, or the same person was enrolled at this very moment.
        """
        try:
            with self._sessions.begin() as session:
                if standing is Standing.WAITING:
                    self._check_room(session, now)
                names = set(session.scalars(select(_AccountRow.name)))
                row = _AccountRow(
                    identity=presented.identity,
                    name=name_from(presented.login, names),
                    password_hash=None,
                    admin=False,
                    created_at=now,
                    activated_at=None,
                    standing=standing,
                )
                row.show(presented)
                session.add(row)
                session.add(_SignInRow(key=presented.identity, identity=row.identity))
                for name in presented.names:
                    if session.get(_AliasRow, self._alias(name)) is None:
                        session.add(_AliasRow(alias=self._alias(name), identity=row.identity))
                session.flush()
                return self._account(session, row)
        except IntegrityError as error:
            raise AccountError("Somebody signed in at the same moment.", fix="Sign in again.") from error

    def sign_up(
        self,
        wanted: str,
        *,
        full_name: str,
        email: str,
        password_hash: str,
        not_for_them: Collection[str],
        now: int,
    ) -> Account:
        """A new local account that waits for approval, under the name *wanted* or one like it.

        Nobody gets a name in *not_for_them*, which lists mean, nor one that somebody has. The *wanted* name
        is kept as the login.

        Raises:
            AccountError: Too many wait already, or somebody else took the name at this very moment.
        """
        try:
            with self._sessions.begin() as session:
                self._check_room(session, now)
                names = set(session.scalars(select(_AccountRow.name)))
                row = _AccountRow(
                    identity=f"{LOCAL}:{secrets.token_hex(8)}",
                    name=name_from(wanted, names | set(not_for_them)),
                    password_hash=password_hash,
                    admin=False,
                    created_at=now,
                    activated_at=None,
                    standing=Standing.WAITING,
                    login=wanted,
                    email=email,
                    full_name=full_name,
                    groups="[]",
                )
                session.add(row)
                session.flush()
                return self._account(session, row)
        except IntegrityError as error:
            raise AccountError("Somebody asked at the same moment.", fix="Try again.") from error

    def dismiss_requests(self, *, made_before: int) -> int:
        """Forget who waits, was never in, and asked before *made_before*; how many they were."""
        with self._sessions.begin() as session:
            return self._dismiss(session, made_before)

    def _dismiss(self, session: Session, made_before: int) -> int:
        asked = select(_AccountRow.identity).where(
            _AccountRow.standing == Standing.WAITING,
            _AccountRow.activated_at.is_(None),
            _AccountRow.created_at < made_before,
        )
        identities = list(session.scalars(asked))
        for table in (_LinkRow, _SignInRow, _AliasRow, _AccountRow):
            session.execute(delete(table).where(table.identity.in_(identities)))
        return len(identities)

    def _check_room(self, session: Session, now: int) -> None:
        self._dismiss(session, now - KEEP_REQUESTS_S)
        if (session.scalar(_WAITING) or 0) >= MOST_WAITING:
            raise AccountError(
                f"{MOST_WAITING} people wait for approval, and no more can.",
                fix="Write to whoever runs this site.",
            )

    def set_standing(self, name: str, standing: Standing) -> Account:
        """Change by what *name* is here.

        Raises:
            UnknownPersonError: There is no such account.
        """
        with self._sessions.begin() as session:
            row = session.scalar(select(_AccountRow).where(_AccountRow.name == name))
            if row is None:
                raise UnknownPersonError(f"There is nobody called {name!r}.")
            row.standing = standing
            if standing is Standing.REFUSED:
                row.admin = False
            session.flush()
            return self._account(session, row)

    def activate(self, name: str, *, now: int) -> None:
        """Note that *name* has signed in."""
        with self._sessions.begin() as session:
            session.execute(
                update(_AccountRow)
                .where(_AccountRow.name == name, _AccountRow.activated_at.is_(None))
                .values(activated_at=now)
            )

    def find(self, name: str) -> Account | None:
        """The account called *name*, or None."""
        with self._sessions() as session:
            row = session.scalar(select(_AccountRow).where(_AccountRow.name == name))
            return self._account(session, row) if row is not None else None

    def of_identity(self, key: str) -> Account | None:
        """The account that the identity *key* at a provider opens, or None."""
        with self._sessions() as session:
            found = session.get(_SignInRow, key)
            row = session.get(_AccountRow, found.identity if found else key)
            return self._account(session, row) if row is not None else None

    def everybody(self) -> tuple[Account, ...]:
        """All accounts by name, those who wait and who were refused among them."""
        with self._sessions() as session:
            aliases: dict[str, list[str]] = {}
            for row in session.scalars(select(_AliasRow)):
                aliases.setdefault(row.identity, []).append(row.alias)
            rows = session.scalars(select(_AccountRow).order_by(_AccountRow.name))
            return tuple(self._known_by(row, aliases.get(row.identity, ())) for row in rows)

    def requests(self) -> int:
        """How many wait for approval."""
        with self._sessions() as session:
            return session.scalar(_WAITING) or 0

    def password_hash(self, name: str) -> str | None:
        """The stored hash of *name*'s password; None if there is no such account or no password yet."""
        with self._sessions() as session:
            return session.scalar(select(_AccountRow.password_hash).where(_AccountRow.name == name))

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
                for table in (_LinkRow, _SignInRow, _AliasRow):
                    session.execute(delete(table).where(table.identity == row.identity))
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
            return link.state(now), link, self._account(session, owner)

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
            return self._account(session, owner)

    def _alias(self, name: str) -> str:
        return f"{self._method} {name.lower()}"[:320]

    def _signs_in(self, session: Session, identity: str) -> bool:
        """Whether the account *identity* belongs to an identity at the present provider already."""
        keys = session.scalars(select(_SignInRow.key).where(_SignInRow.identity == identity))
        return any(key.startswith(f"{self._method}:") for key in keys)

    def _account(self, session: Session, row: _AccountRow) -> Account:
        found = session.scalars(select(_AliasRow.alias).where(_AliasRow.identity == row.identity))
        return self._known_by(row, found)

    def _known_by(self, row: _AccountRow, aliases: Iterable[str]) -> Account:
        """The account of *row*, whose names at all providers are *aliases*, as they are stored."""
        if self._method == LOCAL:
            # Whoever signed up chose the name: lists do not mean them until an administrator approved them.
            return row.account(() if row.standing == Standing.WAITING else (row.name,))
        return row.account(
            name for method, _, name in (alias.partition(" ") for alias in aliases) if method == self._method
        )


def _void_links(session: Session, identity: str, *, now: int, kind: LinkKind | None = None) -> None:
    """Void the open links of *identity*, all or those of one *kind*."""
    still_open = update(_LinkRow).where(
        _LinkRow.identity == identity, _LinkRow.used_at.is_(None), _LinkRow.replaced_at.is_(None)
    )
    if kind is not None:
        still_open = still_open.where(_LinkRow.kind == kind)
    session.execute(still_open.values(replaced_at=now))
