"""Fills a database as the existing backend does, and signs tokens as it does.

    credentials.py ORDER

The URL of the database is in DATABASE_URL, exactly as the backend has it. The order is one JSON object:

    users    a list of {"email", "is_active" (true), "keys": [...]}; a key has "api_key" and "secret_key", and may have
             "fernet_key" (0; the number of a drawn key, -1 for one that is not printed), "is_valid" (true), "age" in seconds (0), and "raw":
             true, which stores both as they are
    tokens   an object of {"claims", "key", "algorithm" ("HS256")} by any name; a claim "exp" is relative to now; `key`
             may be {"rsa": true}, for a key pair drawn for the occasion
    fernet_keys  how many to draw

Prints {"fernet_keys": [...], "tokens": {...}}. Makes the tables first, unless there are any.
"""

import asyncio
import datetime
import json
import os
import sys
import time

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwt
from sqlalchemy import Boolean, Column, DateTime, ForeignKey, Integer, String
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import declarative_base

Base = declarative_base()
UTC = datetime.timezone.utc


def now():
    return datetime.datetime.now(UTC)


class User(Base):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True, index=True)
    email = Column(String, unique=True, index=True, nullable=False)
    hashed_password = Column(String, nullable=False)
    is_active = Column(Boolean, default=True)
    created_at = Column(DateTime(timezone=True), default=now)
    updated_at = Column(DateTime(timezone=True), default=now)
    reset_token = Column(String, nullable=True)
    reset_token_expires = Column(DateTime(timezone=True), nullable=True)


class ApiKey(Base):
    __tablename__ = "api_keys"
    id = Column(Integer, primary_key=True, index=True)
    user_id = Column(Integer, ForeignKey("users.id"), nullable=False)
    encrypted_api_key = Column(String, nullable=False)
    encrypted_secret_key = Column(String, nullable=False)
    label = Column(String, nullable=True)
    is_valid = Column(Boolean, default=True)
    created_at = Column(DateTime(timezone=True), default=now)
    updated_at = Column(DateTime(timezone=True), default=now)


def stored_key(user, key, fernet_keys):
    fernet = Fernet(key.get("fernet_key", fernet_keys[0]))
    store = str if key.get("raw") else lambda text: fernet.encrypt(text.encode()).decode()
    created = now() - datetime.timedelta(seconds=key.get("age", 0))
    return ApiKey(
        user_id=user.id,
        encrypted_api_key=store(key["api_key"]),
        encrypted_secret_key=store(key["secret_key"]),
        is_valid=key.get("is_valid", True),
        created_at=created,
        updated_at=created,
    )


async def fill(order, fernet_keys):
    engine = create_async_engine(os.environ["DATABASE_URL"])
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        for description in order.get("users", []):
            user = User(
                email=description["email"],
                hashed_password="$2b$12$not-a-real-hash",
                is_active=description.get("is_active", True),
            )
            session.add(user)
            await session.flush()
            for key in description.get("keys", []):
                session.add(stored_key(user, key, fernet_keys))
                # One after the other, so that ids follow the order.
                await session.flush()
        await session.commit()
    await engine.dispose()


def sign(description):
    claims = dict(description["claims"])
    if isinstance(claims.get("exp"), (int, float)):
        claims["exp"] = int(time.time() + claims["exp"])
    key = description["key"]
    if isinstance(key, dict):
        pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key = pair.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    return jwt.encode(claims, key, algorithm=description.get("algorithm", "HS256"))


def main():
    order = json.loads(sys.argv[1])
    fernet_keys = [Fernet.generate_key().decode() for _ in range(order.get("fernet_keys", 1))]
    for user in order.get("users", []):
        for key in user.get("keys", []):
            # A number stands for one of the drawn keys, -1 for a lost one.
            if isinstance(key.get("fernet_key"), int):
                number = key["fernet_key"]
                key["fernet_key"] = Fernet.generate_key().decode() if number < 0 else fernet_keys[number]
    asyncio.run(fill(order, fernet_keys))
    tokens = {name: sign(description) for name, description in order.get("tokens", {}).items()}
    print(json.dumps({"fernet_keys": fernet_keys, "tokens": tokens}))


main()
