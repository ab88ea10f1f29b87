"""The WSGI application of the site, for ``gunicorn example_project.wsgi``."""

from __future__ import annotations

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

# In production a web server serves the static files.
application = StaticFilesHandler(get_wsgi_application())
