from django.db import migrations

DBOSCTL = {
    "name": "dbosctl",
    "type": "public",
    # No secret opens it: what everybody can download keeps none.
    "secret": "!",
    "grant_types": "urn:ietf:params:oauth:grant-type:device_code\nrefresh_token",
    "response_types": "",
    "redirect_uris": "",
    "scopes": "openid\nprofile\nemail\noffline_access",
    "default_scopes": "openid\noffline_access",
}


def add_client(apps, schema_editor):
    clients = apps.get_model("allauth_idp_oidc", "Client").objects
    clients.get_or_create(id="dbosctl", defaults=DBOSCTL)


class Migration(migrations.Migration):
    dependencies = [("registry", "0005_devices")]

    operations = [migrations.RunPython(add_client, migrations.RunPython.noop)]
