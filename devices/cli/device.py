"""`gateway device ...`: devices, their tokens and certificates, from the command line."""

from pathlib import Path
from typing import Any, Final, TextIO

import click

from devices.cli.finding import device_of_client, find_device
from gateway.cli import program, setup_django
from gateway.exceptions import GatewayError
from gateway.terminal import echo

MAX_OVERLAP_S: Final = 2_592_000
"""30 days."""

# Django's models can be imported only once Django is set up, which is why each command imports what it uses.


@click.group()
def device() -> None:
    """Devices: add, list, show them; let them in or keep them out; their tokens and certificates."""


@device.command()
@click.argument("name")
@click.option("--type", "type_name", default="default", show_default=True, help="Device type; made if there is none.")
@click.option("--no-token", is_flag=True, help="Issue none: the device is provisioned.")
@click.option("--gateway", "is_gateway", is_flag=True, help="It speaks for devices behind it.")
def add(name: str, type_name: str, no_token: bool, is_gateway: bool) -> None:
    """Add a device and print its token, which is not shown again."""
    setup_django()
    from django.core.exceptions import ValidationError
    from django.db import IntegrityError, transaction

    from devices.credentials import issue
    from devices.models import Device, DeviceType

    try:
        with transaction.atomic():
            device_type, _ = DeviceType.objects.get_or_create(name=type_name)
            new = Device(name=name, type=device_type, is_gateway=is_gateway)
            new.full_clean()
            new.save()
            token = None if no_token else issue(new)
    except ValidationError as error:
        raise GatewayError(f"cannot add {name!r}: {' '.join(error.messages)}") from None
    except IntegrityError:
        raise GatewayError(f"cannot add {name!r}: there is a device of that name") from None
    if token is None:
        echo(f"Device {name} added.", err=True)
        return
    echo(token)
    echo(f"Device {name} added. This is its token; it is not shown again.", err=True)


@device.command("list")
def list_devices() -> None:
    """List devices: name, type, state, last data."""
    setup_django()
    from devices.models import Device

    for found in Device.objects.with_connected().select_related("type").iterator():
        echo(found.name, found.type.name, _state(found), _time(found.last_seen_ms))


@device.command()
@click.argument("name")
def show(name: str) -> None:
    """Show a device, its credentials and its latest values.

    NAME may also be that of one of its MQTT clients, such as 42/sensor, which `gateway mqtt` and the log have.
    """
    setup_django()
    from devices.queries import CodePoints, heads, keys_ahead
    from devices.values import Value, duration_text, name_text

    found = device_of_client(name) or find_device(name)
    echo(f"name       {found.name}")
    echo(f"type       {found.type.name}")
    echo(f"clients    {found.pk}/...")
    if found.via is not None:
        echo(f"via        {name_text(found.via.name)}")
    if found.is_gateway:
        echo(f"gateway    of {found.sub_devices.count()} devices")
    echo(f"state      {_state(found)}")
    if found.claimed_by is not None:
        echo(f"owner      {found.claimed_by}, since {found.claimed_at:%Y-%m-%d %H:%M}")
    echo(f"last data  {_time(found.last_seen_ms)}")
    if found.clock_skew_ms:
        echo(f"clock      {duration_text(found.clock_skew_ms)} ahead")
    for credential in found.credentials.all():
        echo(f"token      {credential}, issued {credential.created_at:%Y-%m-%d %H:%M}, {credential.state}")
    for login in found.password_logins.all():
        echo(f"user name  {login}, since {login.created_at:%Y-%m-%d %H:%M}, {login.state}")
    for certificate in found.certificate_names.all():
        echo(f"trusts     {certificate}, since {certificate.created_at:%Y-%m-%d %H:%M}, {certificate.state}")
    for key, *columns in heads(found.latest_values.order_by(CodePoints("key__name")), "key__name", "ts"):
        value = Value(*columns)
        echo(f"value      {name_text(key)} = {value.shown.line} at {_time(value.ts)}")
    for key in keys_ahead(found.pk):
        echo(f"ahead      {name_text(key)}, whose readings are all too far ahead of the gateway's clock")


@device.command()
@click.argument("name")
def disable(name: str) -> None:
    """Cut a device off and keep it out."""
    setup_django()
    from devices.credentials import set_enabled

    set_enabled(find_device(name), False)
    echo(f"Device {name} is disabled; its connections end within two seconds.", err=True)


@device.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a disabled device in again."""
    setup_django()
    from devices.credentials import set_enabled

    set_enabled(find_device(name), True)
    echo(f"Device {name} is enabled.", err=True)


@device.command("issue")
@click.argument("name")
@click.option("--username", help="Issue a password for this user name instead of a token.")
@click.option("--client-id", default="", help="Let the user name in with this MQTT client identifier only.")
@click.option(
    "--password-file",
    type=click.File(),
    help="The password in a file, or - for standard input. Default: one made here.",
)
def issue_credential(name: str, username: str | None, client_id: str, password_file: TextIO | None) -> None:
    """Issue a further token or a password for a device, and print it; it is not shown again."""
    setup_django()
    from django.core.exceptions import ValidationError

    from devices.credentials import issue, issue_password

    if username is None and (client_id or password_file):
        raise click.UsageError("--client-id and --password-file go with --username")
    found = find_device(name)
    if username is None:
        echo(issue(found))
        return
    try:
        chosen = password_file.read().rstrip("\r\n") if password_file else None
        if chosen == "":
            raise GatewayError("the password is empty")
        issued = issue_password(found, username, chosen, client_id=client_id)
    except ValidationError as error:
        raise GatewayError(f"cannot issue it: {' '.join(error.messages)}") from None
    if chosen is None:
        echo(issued)
    echo(f"Device {name} may log in as {username}.", err=True)


@device.command("revoke")
@click.argument("name")
@click.argument("credential")
def revoke_credential(name: str, credential: str) -> None:
    """Revoke a credential of a device: CREDENTIAL is the end of a token, or a user name, as `gateway device show` has
    it."""
    setup_django()
    from devices.credentials import revoke
    from devices.models import Credential, PasswordLogin, valid

    found = find_device(name)
    tokens = found.credentials.filter(valid(), hint=credential.removeprefix("…"))
    logins = found.password_logins.filter(valid(), username=credential)
    revoked: list[Credential | PasswordLogin] = [*tokens, *logins]
    if not revoked:
        raise GatewayError(
            f"{name} has no valid credential {credential!r}; `{program()} device show {name}` lists them"
        )
    for each in revoked:
        revoke(each)
    echo(f"{credential} of {name} is revoked; its connections end within two seconds.", err=True)


@device.command()
@click.argument("name")
@click.option("--username", help="Rotate the password of this user name instead of the tokens.")
@click.option(
    "--overlap",
    "overlap_s",
    type=click.FloatRange(0, MAX_OVERLAP_S),
    default=0,
    help="For how many seconds what there is goes on. Default: not at all.",
)
def rotate(name: str, username: str | None, overlap_s: float) -> None:
    """Revoke a device's tokens and print a new one; or the same with a password."""
    setup_django()
    from devices.credentials import rotate as rotate_tokens
    from devices.credentials import rotate_password

    found = find_device(name)
    if username is None:
        echo(rotate_tokens(found, overlap_s=overlap_s))
        what = "tokens"
    else:
        login = found.password_logins.filter(revoked_at=None, username=username).first()
        if login is None:
            raise GatewayError(f"{name} has no user name {username!r}; `{program()} device show {name}` lists them")
        echo(rotate_password(login, overlap_s=overlap_s))
        what = f"passwords for {username}"
    when = f"are valid for another {overlap_s:g} s" if overlap_s else "are revoked"
    echo(f"The earlier {what} of {name} {when}; its connections end within two seconds.", err=True)


@device.command()
@click.argument("name")
@click.option("--certificate", type=click.Path(exists=True, dir_okay=False), help="PEM file: trusts its fingerprint.")
@click.option("--fingerprint", help="SHA-256 of the certificate, as openssl shows it.")
@click.option("--san", help='Subject alternative name: "DNS:sensor-7", "URI:...", "IP:...", "email:...".')
@click.option("--cn", help="Common name.")
def trust(name: str, certificate: str | None, **named: str | None) -> None:
    """Let whoever has a client certificate of this name in as a device, without a token."""
    setup_django()
    from devices.client_certificates import fingerprint_in, trust

    given = {kind: value for kind, value in named.items() if value is not None}
    try:
        if certificate is not None:
            given["fingerprint"] = fingerprint_in(Path(certificate).read_bytes())
        if len(given) != 1:
            raise click.UsageError("give one of --certificate, --fingerprint, --san, --cn")
        for kind, value in given.items():
            echo(f"Device {name} is who has a certificate with {trust(find_device(name), kind, value)}.", err=True)
    except ValueError as error:
        raise GatewayError(str(error)) from None


@device.command()
@click.argument("name")
@click.argument("value")
def distrust(name: str, value: str) -> None:
    """Trust a name in certificates no more. VALUE is as `gateway device show` has it."""
    setup_django()
    from devices.credentials import revoke_certificate
    from devices.models import valid

    found = find_device(name).certificate_names.filter(valid(), value=value).first()
    if found is None:
        raise GatewayError(f"{name} has no certificate with {value!r}; `{program()} device show {name}` lists them")
    revoke_certificate(found)
    echo(f"{found} of {name} is not trusted any more; its connections end within two seconds.", err=True)


@device.command()
@click.argument("name")
@click.argument("secret")
@click.option("--user", "username", help="Who is to own it. Default: the only user there is.")
def claim(name: str, secret: str, username: str | None) -> None:
    """Claim a device that has opened itself for claiming, with the secret that it has given."""
    setup_django()
    from django.contrib.auth import get_user_model

    from devices.claims import claim

    users = get_user_model()._default_manager.all()
    if username is not None:
        users = users.filter(**{get_user_model().USERNAME_FIELD: username})
    found = list(users[:2])
    if len(found) != 1:
        raise GatewayError("give --user USERNAME" if username is None else f"there is no user {username!r}")
    claim(name, secret, found[0])
    echo(f"Device {name} is claimed by {found[0]}.", err=True)


@device.command()
@click.argument("name")
def release(name: str) -> None:
    """Take the owner from a device, so that it can be claimed again."""
    setup_django()
    from devices.claims import release

    release(find_device(name))
    echo(f"Device {name} has no owner.", err=True)


def _state(found: Any) -> str:
    """The state of a device of `objects.with_connected`."""
    if not found.enabled:
        return "disabled"
    return "connected" if found.connected else "not connected"


def _time(at_ms: int | None) -> str:
    from devices.values import instant

    if at_ms is None:
        return "never"
    at = instant(at_ms)
    return f"{at_ms} ms" if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
