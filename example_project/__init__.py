"""A small shop: Django, Celery and Flask on a feed that drops regularly. ``make demo`` runs it."""
