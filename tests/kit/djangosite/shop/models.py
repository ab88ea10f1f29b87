"""The tables that the handlers write."""

from django.db import models


class Tick(models.Model):
    """A numbered message. The primary keys are in the order of handling."""

    number = models.BigIntegerField(unique=True)
    epoch = models.BigIntegerField(default=0)
    handled_by = models.BigIntegerField(default=0)

    objects = models.Manager()


class Account(models.Model):
    """The options of a stream of the fleet."""

    url = models.CharField(max_length=200)
    token = models.CharField(max_length=200, default="first")

    objects = models.Manager()
