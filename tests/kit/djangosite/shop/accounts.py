"""The source of a fleet, with a stream for each account."""

from typing import Any

from .models import Account


def accounts() -> dict[int, dict[str, Any]]:
    """Return the rows synchronously."""
    return {account.pk: options(account) for account in Account.objects.all()}


async def accounts_async() -> dict[int, dict[str, Any]]:
    """Return the rows, with the async ORM."""
    return {account.pk: options(account) async for account in Account.objects.all()}


def options(account: Account) -> dict[str, Any]:
    return {"url": account.url, "headers": {"Authorization": account.token}}
