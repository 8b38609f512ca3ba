"""The second factors of local accounts in the hub's database: encrypted secrets, hashes of recovery codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import BigInteger, Engine, String, Text, delete, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class _Base(DeclarativeBase):
    pass


class _FactorRow(_Base):
    __tablename__ = "labdock_second_factors"

    identity: Mapped[str] = mapped_column(String(64), primary_key=True)
    secret: Mapped[str] = mapped_column(Text())
    last_step: Mapped[int] = mapped_column(BigInteger())
    since: Mapped[int | None] = mapped_column(BigInteger())


class _RecoveryRow(_Base):
    __tablename__ = "labdock_recovery_codes"

    code_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    identity: Mapped[str] = mapped_column(String(64), index=True)


@dataclass(frozen=True, slots=True)
class StoredFactor:
    """A second factor; *secret* is encrypted, *since* (Unix seconds) is None until a code was right once."""

    secret: str
    last_step: int
    since: int | None
    recovery_codes: int


class SecondFactorStore:
    """The second factors of one instance, by identity; a method is one transaction, safe in any thread."""

    def __init__(self, engine: Engine) -> None:
        _Base.metadata.create_all(engine)
        self._sessions = sessionmaker(engine)

    def find(self, identity: str) -> StoredFactor | None:
        """The second factor of *identity*, or None; one that is only being set up too."""
        with self._sessions() as session:
            row = session.get(_FactorRow, identity)
            if row is None:
                return None
            left = select(func.count()).where(_RecoveryRow.identity == identity)
            return StoredFactor(row.secret, row.last_step, row.since, session.scalar(left) or 0)

    def in_use(self) -> frozenset[str]:
        """The identities that sign in with a second factor."""
        with self._sessions() as session:
            return frozenset(
                session.scalars(select(_FactorRow.identity).where(_FactorRow.since.is_not(None)))
            )

    def begin(self, identity: str, secret: str, step: int) -> bool:
        """Keep *secret* for *identity*, begun at *step*, until a code is right; false if one is in use."""
        with self._sessions.begin() as session:
            row = session.get(_FactorRow, identity)
            if row is not None and row.since is not None:
                return False
            session.merge(_FactorRow(identity=identity, secret=secret, last_step=step, since=None))
            return True

    def confirm(self, identity: str, step: int, code_hashes: Iterable[str], *, now: int) -> bool:
        """Put what was begun into use, with new recovery codes; false if it is in use already, or gone."""
        with self._sessions.begin() as session:
            done = session.execute(
                update(_FactorRow)
                .where(_FactorRow.identity == identity, _FactorRow.since.is_(None))
                .values(since=now, last_step=step)
                .returning(_FactorRow.identity)
            ).scalar_one_or_none()
            if done is None:
                return False
            session.execute(delete(_RecoveryRow).where(_RecoveryRow.identity == identity))
            session.add_all(_RecoveryRow(code_hash=hashed, identity=identity) for hashed in code_hashes)
            return True

    def use_step(self, identity: str, step: int) -> bool:
        """Use the code of *step* up; of any number of calls one gets true, and none for an earlier step."""
        with self._sessions.begin() as session:
            done = session.execute(
                update(_FactorRow)
                .where(
                    _FactorRow.identity == identity,
                    _FactorRow.since.is_not(None),
                    _FactorRow.last_step < step,
                )
                .values(last_step=step)
                .returning(_FactorRow.identity)
            ).scalar_one_or_none()
            return done is not None

    def use_recovery(self, identity: str, code_hash: str) -> bool:
        """Use a recovery code up; of any number of calls one gets true."""
        with self._sessions.begin() as session:
            done = session.execute(
                delete(_RecoveryRow)
                .where(_RecoveryRow.identity == identity, _RecoveryRow.code_hash == code_hash)
                .returning(_RecoveryRow.code_hash)
            ).scalar_one_or_none()
            return done is not None

    def remove(self, identity: str) -> bool:
        """Forget the second factor of *identity*; whether one was in use."""
        with self._sessions.begin() as session:
            row = session.get(_FactorRow, identity)
            session.execute(delete(_RecoveryRow).where(_RecoveryRow.identity == identity))
            if row is None:
                return False
            session.delete(row)
            return row.since is not None
