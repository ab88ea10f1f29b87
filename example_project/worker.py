"""The Celery app: ``celery -A example_project.worker worker --datastream``."""

from __future__ import annotations

import os

from celery import Celery

from datastream_ws.celery import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
install(app)  # its workers can run the streams of DATASTREAMS
