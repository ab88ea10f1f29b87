"""The settings of Django. The environment contains those that differ between runs."""

from __future__ import annotations

import os
from pathlib import Path

from datastream_ws.schematic import stream_headers, stream_url

# --- the streams, two of one feed and one for each supplier ---

_FEED = {
    "URL": stream_url(os.environ.get("FEED_URL", "http://127.0.0.1:9000")),
    "HEADERS": stream_headers(os.environ.get("FEED_KEY", "demo-key")),
    "ROUTE": "entity_type",  # the field that on_message("…") compares
    "PROXY": None,  # the feed is on this machine
    # Short, so that you see reconnects soon. In production, keep the defaults (1 s, 30 s, 10 s).
    "MIN_RECONNECT_DELAY": 0.4,
    "MAX_RECONNECT_DELAY": 2.0,
    "STABLE_AFTER": 1.0,
}
DATASTREAMS = {
    "flags": _FEED,  # manage.py run_datastream flags
    # For celery worker --datastream. One worker holds the stream, and the others are on standby.
    "prices": {**_FEED, "LEASE": "database", "LEASE_TTL": 5.0},
    # For manage.py run_datastream suppliers. Its processes share a stream for each row.
    "suppliers": {
        "SOURCE": "example_project.shop.suppliers.suppliers",
        "REFRESH": 2.0,
        "LEASE": "database",
        "LEASE_TTL": 4.0,
        **{name: _FEED[name] for name in _FEED if name not in ("URL", "HEADERS", "ROUTE")},
    },
}

# --- Celery ---

STATE = Path(os.environ.get("SHOP_STATE", "shop-state")).resolve()  # for all files

CELERY_TASK_DEFAULT_QUEUE = os.environ.get("SHOP_QUEUE", "shop")
CELERY_BROKER_URL = os.environ.get("REDIS_URL") or os.environ.get("AMQP_URL") or "filesystem://"
if CELERY_BROKER_URL == "filesystem://":  # on one machine without another broker
    CELERY_BROKER_TRANSPORT = "example_project.broker:Transport"
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(STATE / "broker" / "messages"),
        "data_folder_out": str(STATE / "broker" / "messages"),
        "control_folder": str(STATE / "broker" / "control"),
        "polling_interval": 0.1,
    }
elif CELERY_BROKER_URL.startswith("redis"):
    # Other programs may use the same Redis.
    CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": f"{CELERY_TASK_DEFAULT_QUEUE}:"}
CELERY_TASK_ACKS_LATE = True  # if a worker is killed, another one gets its task
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

# --- Django ---

SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "")  # if it's empty, Django refuses to start
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "example_project.urls"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "datastream_ws_django",
    "example_project.shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": STATE / "shop.sqlite3",
        # Several processes write, so each transaction waits for its turn at its beginning.
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
        },
    }
}
