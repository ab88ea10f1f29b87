from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("datastream", "0004_fleet_members"),
    ]

    operations = [
        migrations.AddField(
            model_name="failedmessage",
            name="claimed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]
