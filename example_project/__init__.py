"""A small shop: Django, Celery and Flask on a feed that does not hold. ``make demo`` runs it."""
