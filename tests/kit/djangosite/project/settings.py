"""The settings of a project. Tests vary them through the environment."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BASE = Path(__file__).parents[1]
SECRET_KEY = "for tests only"
DEBUG = os.environ.get("DEBUG", "") == "1"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "project.urls"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WSGI_APPLICATION = "project.wsgi.application"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "datastream_ws_django",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "project.urls.strict",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def database(url: str) -> dict[str, Any]:
    """Return an entry of DATABASES. Without a URL, it is a SQLite file beside the project."""
    if not url:
        name = BASE / "db.sqlite3"
        # Writers of several processes wait for each other instead of failing.
        options = {"timeout": 60, "transaction_mode": "IMMEDIATE"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
    }


DATABASES = {"default": {**database(os.environ.get("DATABASE", ""))}}
DATABASES["default"].update(json.loads(os.environ.get("DATABASE_SETTINGS", "{}")))


class Router:
    """A router that puts the package's tables into the database ``rows``."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "rows" if model._meta.app_label == "datastream" else None

    db_for_read = db_for_write


if os.environ.get("ROUTED"):
    DATABASES["rows"] = {**database(""), "NAME": BASE / "rows.sqlite3"}
    DATABASE_ROUTERS = ["project.settings.Router"]

DATASTREAMS = json.loads(os.environ.get("DATASTREAMS", "{}"))
