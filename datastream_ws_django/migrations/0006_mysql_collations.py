"""
Make names case-sensitive in MySQL and MariaDB, and let their tables contain any text.

Their default collations treat "A" and "a" as the same key, so that two streams would share one
lease or one row. Other databases need no change.
"""

from typing import Any

from django.db import migrations

NAMES = {
    "streamstatus": ["stream", "fleet"],
    "failedmessage": ["stream"],
    "streamlease": ["stream", "holder"],
    "fleetmember": ["token", "fleet"],
    "fleetholding": ["fleet", "key", "holder"],
    "streamcommand": ["stream"],
    "streamevent": ["stream"],
    "streamminute": ["stream"],
}


def convert(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor != "mysql":
        return
    quoted = schema_editor.quote_name
    for model, names in NAMES.items():
        table = apps.get_model("datastream", model)._meta
        alter = f"ALTER TABLE {quoted(table.db_table)} "
        lengths = {name: table.get_field(name).max_length for name in names}
        # A statement of its own, because it sets the collation of all columns.
        schema_editor.execute(alter + "CONVERT TO CHARACTER SET utf8mb4")
        schema_editor.execute(
            alter
            + ", ".join(
                f"MODIFY {quoted(name)} varchar({length}) "
                "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL"
                for name, length in lengths.items()
            )
        )


class Migration(migrations.Migration):
    dependencies = [
        ("datastream", "0005_retry_claims"),
    ]

    # MySQL cannot change tables in a transaction.
    operations = [migrations.RunPython(convert, migrations.RunPython.noop, atomic=False)]
