"""A fleet's source: a stream for each account."""

from typing import Any

from .models import Account


def accounts() -> dict[int, dict[str, Any]]:
    """Return the rows, as a plain function."""
    return {account.pk: options(account) for account in Account.objects.all()}


async def accounts_async() -> dict[int, dict[str, Any]]:
    """Return the rows, with the async ORM."""
    return {account.pk: options(account) async for account in Account.objects.all()}


def options(account: Account) -> dict[str, Any]:
    return {"url": account.url, "headers": {"Authorization": account.token}}
