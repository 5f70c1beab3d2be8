"""The admin: devices, their access tokens and their readings; device types.

A token is shown once, on the page that answers the request which issued it: neither a message nor a session holds it.

The file is long because Django's admin wants the pages, the actions and the permissions of a model in one class.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Field, Model, Q, QuerySet
from django.forms import ModelForm, Select
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from devices import credentials
from devices.client_certificates import free_name
from devices.dashboard.command_lines import publish_lines
from devices.dashboard.device_list import found_by, search_text
from devices.dashboard.device_readings import ReadingsChoice, ReadingsQuery, read_page
from devices.models import CertificateName, Credential, Deletion, Device, DeviceType, PasswordLogin
from devices.profiles import profile_names
from devices.queries import contains_words
from devices.values import duration_text, instant, name_text
from gateway.config import current

if TYPE_CHECKING:
    DeviceTypeModelAdmin = admin.ModelAdmin[DeviceType]
    DeviceModelAdmin = admin.ModelAdmin[Device]
    DeletionModelAdmin = admin.ModelAdmin[Deletion]
    CredentialTabularInline = admin.TabularInline[Credential, Device]
    PasswordLoginTabularInline = admin.TabularInline[PasswordLogin, Device]
    CertificateNameTabularInline = admin.TabularInline[CertificateName, Device]
    CertificateNameModelForm = ModelForm[CertificateName]
else:  # generic in the stubs only
    DeviceTypeModelAdmin = DeviceModelAdmin = DeletionModelAdmin = admin.ModelAdmin
    CredentialTabularInline = PasswordLoginTabularInline = CertificateNameTabularInline = admin.TabularInline
    CertificateNameModelForm = ModelForm

MAX_TOKENS_AT_ONCE: Final = 200
DEVICES_PER_TRANSACTION: Final = 100
"""Of what is done with many devices. On SQLite nobody else writes meanwhile: 100 take some 20 ms."""

admin.site.site_title = admin.site.site_header = "fieldgate administration"
admin.site.index_title = "Administration"


def _moment(ms: int | None) -> str:
    at = None if ms is None else instant(ms)
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def in_slices(devices: Sequence[Device]) -> Iterable[Sequence[Device]]:
    """The devices, as many at a time as are changed in one transaction."""
    return (devices[at : at + DEVICES_PER_TRANSACTION] for at in range(0, len(devices), DEVICES_PER_TRANSACTION))


@admin.register(DeviceType)
class DeviceTypeAdmin(DeviceTypeModelAdmin):
    """Kinds of device."""

    list_display = ("shown_name", "profile", "gateways_may_add", "device_count")
    search_fields = ("name",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[DeviceType], search_term: str
    ) -> tuple[QuerySet[DeviceType], bool]:
        """In upper and lower case of any script."""
        return queryset.filter(contains_words(search_text(search_term), "name")), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeviceType]:
        """With the number of devices."""
        return super().get_queryset(request).annotate(count=Count("devices"))

    def formfield_for_dbfield(self, db_field: "Field[Any, Any]", request: HttpRequest, **kwargs: Any) -> Any:
        """Offers the profiles that there are."""
        if db_field.name == "profile":
            kwargs["widget"] = Select(choices=[(name, name) for name in profile_names()])
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    @admin.display(description="name", ordering="name")
    def shown_name(self, device_type: DeviceType) -> str:
        """With what is not seen in it."""
        return str(device_type)

    @admin.display(description="devices", ordering="count")
    def device_count(self, device_type: Any) -> int:
        """How many devices are of this type."""
        count: int = device_type.count
        return count


class ConnectedFilter(admin.SimpleListFilter):
    """Connected or not, by the annotation of `with_connected`."""

    title = "connection"
    parameter_name = "connected"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        """The choices."""
        return (("yes", "Connected"), ("no", "Not connected"))

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The devices of the choice."""
        return queryset if self.value() is None else queryset.filter(Q(connected=self.value() == "yes"))


class CredentialInline(CredentialTabularInline):
    """A device's access tokens: what is known of them, and a button that revokes."""

    model = Credential
    fields = readonly_fields = ("token", "created_at", "state")
    verbose_name_plural = "access tokens"
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: tokens are issued, not typed in."""
        return False

    @admin.display(description="token")
    def token(self, credential: Credential) -> str:
        """All that is known of it."""
        return f"…{credential.hint}"

    @admin.display(description="state")
    def state(self, credential: Credential) -> str | SafeString:
        """Since when it is revoked, or the button for that: it sends the form around it to another address."""
        if not credential.is_valid:
            return credential.state
        address = reverse("admin:gateway_devices_device_revoke", args=[credential.device_id, credential.pk])
        return format_html(
            '{}<button class="button" formaction="{}" formnovalidate aria-label="Revoke the token …{}">Revoke</button>',
            f"{credential.state} " if credential.revoked_at else "",
            address,
            credential.hint,
        )


class PasswordLoginInline(PasswordLoginTabularInline):
    """A device's user names. `gateway device issue` makes them, and `gateway device revoke` ends them."""

    model = PasswordLogin
    fields = readonly_fields = ("username", "client_id", "created_at", "state")
    verbose_name_plural = "user names with passwords"
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: a password is shown where it is made."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may see devices may see them."""
        return request.user.has_perm("gateway_devices.view_device")


class CertificateNameForm(CertificateNameModelForm):
    """A name as it is stored, however it was typed."""

    def clean(self) -> dict[str, Any] | None:
        """Normalizes the value, which must be one that a certificate can have, and no other device's."""
        cleaned = super().clean() or self.cleaned_data
        if "kind" in cleaned and "value" in cleaned:
            try:
                cleaned["value"] = free_name(cleaned["kind"], cleaned["value"])
            except ValueError as error:
                self.add_error("value", str(error))
        return cleaned


class CertificateNameInline(CertificateNameTabularInline):
    """The names in client certificates whose holders are let in as the device."""

    model = CertificateName
    form = CertificateNameForm
    fields = ("kind", "value", "created_at", "state")
    readonly_fields = ("created_at", "state")
    verbose_name_plural = "client certificates"
    extra = 0
    can_delete = False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: one is added, and revoked."""
        return False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may change devices may add one."""
        return request.user.has_perm("gateway_devices.change_device")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may see devices may see them."""
        return request.user.has_perm("gateway_devices.view_device") or self.has_add_permission(request, obj)

    @admin.display(description="state")
    def state(self, name: CertificateName) -> str | SafeString:
        """Since when it is revoked, or the button for that."""
        if name._state.adding:
            return ""
        if name.revoked_at is not None:
            return name.state
        address = reverse("admin:gateway_devices_device_distrust", args=[name.device_id, name.pk])
        return format_html(
            '<button class="button" formaction="{}" formnovalidate aria-label="Revoke {}">Revoke</button>',
            address,
            name,
        )


@admin.register(Deletion)
class DeletionAdmin(DeletionModelAdmin):
    """What is being deleted, how far it is, and what was. Nobody changes it."""

    list_display = ("what", "state", "deleted", "requested_by", "requested_at", "finished_at")
    list_display_links = None
    list_select_related = ("requested_by",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: it is ordered where the readings are."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: half of the readings would stay."""
        return False

    @admin.display(description="readings")
    def what(self, deletion: Deletion) -> str:
        """Which readings."""
        return name_text(str(deletion))

    @admin.display(description="state")
    def state(self, deletion: Deletion) -> str:
        """How far it is."""
        if deletion.finished_at is not None:
            return "done"
        return "under way" if deletion.deleted else "waits"


@admin.register(Device)
class DeviceAdmin(DeviceModelAdmin):
    """Devices. Adding one issues its first token; its readings have a page of their own."""

    list_display = ("short_name", "type", "enabled", "is_connected", "last_seen")
    list_filter = ("enabled", ConnectedFilter, "is_gateway", "type")
    list_select_related = ("type",)
    search_fields = ("name", "type__name", "uuid")
    readonly_fields = ("uuid", "is_connected", "last_seen", "clock", "created_at")
    autocomplete_fields = ("type", "via")
    inlines = (CredentialInline, PasswordLoginInline, CertificateNameInline)
    actions = ("issue_tokens", "rotate_tokens", "enable_devices", "disable_devices")
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[Device]:
        """With `connected`."""
        return super().get_queryset(request).with_connected()  # type: ignore[attr-defined,no-any-return]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What a new device needs is its name and type; the rest comes by itself."""
        if obj is None:
            return ((None, {"fields": ("name", "type", "is_gateway", "via")}),)
        facts = ("is_connected", "last_seen", "clock", "created_at", "uuid")
        return ((None, {"fields": ("name", "type", "enabled", "is_gateway", "via")}), ("Facts", {"fields": facts}))

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        """No tokens before there is a device."""
        return self.inlines if obj is not None else ()

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """The type that `gateway device add` gives, so that the first device needs no type made first."""
        default, _ = DeviceType.objects.get_or_create(name="default")
        return {"type": str(default.pk), **super().get_changeform_initial_data(request)}

    def get_urls(self) -> list[URLPattern]:
        """The pages that a device has besides its form."""
        own = [
            path("<int:device_id>/readings/", self.readings_view, name="gateway_devices_device_readings"),
            path("<int:device_id>/readings/delete/", self.delete_readings_view, name="gateway_devices_delete_readings"),
            path("<int:device_id>/issue/", self.issue_view, name="gateway_devices_device_issue"),
            path("<int:device_id>/rotate/", self.rotate_view, name="gateway_devices_device_rotate"),
            path("<int:device_id>/revoke/<int:pk>/", self.revoke_view, name="gateway_devices_device_revoke"),
            path("<int:device_id>/distrust/<int:pk>/", self.distrust_view, name="gateway_devices_device_distrust"),
        ]
        for pattern in own:
            pattern.callback = self.admin_site.admin_view(pattern.callback)
        return [*own, *super().get_urls()]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Device], search_term: str
    ) -> tuple[QuerySet[Device], bool]:
        """As the dashboard searches."""
        return queryset.filter(found_by(search_term)), False

    # Columns

    @admin.display(description="name", ordering="name")
    def short_name(self, device: Device) -> SafeString:
        """As much of it as leaves room for the other columns."""
        return format_html('<span class="clip" title="{0}">{0}</span>', name_text(device.name))

    @admin.display(description="connected", boolean=True, ordering="connected")
    def is_connected(self, device: Any) -> bool:
        """Whether a living gateway has a connection of it."""
        return bool(getattr(device, "connected", False))

    @admin.display(description="last data", ordering="last_seen_ms")
    def last_seen(self, device: Device) -> str:
        """When data last came."""
        return _moment(device.last_seen_ms)

    @admin.display(description="clock")
    def clock(self, device: Device) -> str:
        """By how much it is ahead, if that is too much."""
        if device.clock_skew_ms is None:
            return "as far as known not too far ahead"
        return f"{duration_text(device.clock_skew_ms)} ahead"

    # Saving

    def save_model(self, request: HttpRequest, obj: Device, form: "ModelForm[Device]", change: bool) -> None:
        """Connections go by what was true when they were authenticated: a change that matters to them cuts them."""
        super().save_model(request, obj, form, change)
        if change and {"enabled", "type", "is_gateway", "via"} & set(form.changed_data):
            credentials.order_disconnect(obj, "changed in the admin")

    def response_add(self, request: HttpRequest, obj: Device, post_url_continue: str | None = None) -> HttpResponse:
        """Issues the first token and shows it."""
        return self._show_tokens(request, [(obj, credentials.issue(obj))], f"{obj} is added")

    def get_deleted_objects(
        self, objs: Iterable[Model], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Names the devices only: Django would list every reading."""
        devices = list(objs)
        named = [f"{device}, with its access tokens and all of its readings" for device in devices]
        needed = set() if self.has_delete_permission(request) else {"device"}
        return named, {"devices": len(devices)}, needed, []

    # Actions on the list

    @admin.action(description="Issue a further token", permissions=["change"])
    def issue_tokens(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse | None:
        """One more for each."""
        return self._for_tokens(request, queryset, credentials.issue, "Issued a token.")

    @admin.action(description="Rotate: revoke all tokens, issue a new one", permissions=["change"])
    def rotate_tokens(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse | None:
        """A new one instead of those that there are."""
        return self._for_tokens(request, queryset, credentials.rotate, "Rotated the tokens.")

    @admin.action(description="Enable", permissions=["change"])
    def enable_devices(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        """Lets them in."""
        self._set_enabled(request, queryset, True)

    @admin.action(description="Disable: cut off and refuse", permissions=["change"])
    def disable_devices(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        """Cuts them off."""
        self._set_enabled(request, queryset, False)

    def _set_enabled(self, request: HttpRequest, queryset: QuerySet[Device], enabled: bool) -> None:
        devices = list(queryset)
        for some in in_slices(devices):
            with transaction.atomic():
                credentials.set_all_enabled(some, enabled)
                self._log_changes(request, some, "Enabled." if enabled else "Disabled.")
        done = "enabled" if enabled else "disabled; their connections are closed within two seconds"
        self.message_user(request, f"{len(devices)} device(s) {done}.", messages.SUCCESS)

    def _for_tokens(
        self, request: HttpRequest, queryset: QuerySet[Device], make: Any, entry: str
    ) -> HttpResponse | None:
        devices = list(queryset[: MAX_TOKENS_AT_ONCE + 1])
        if len(devices) > MAX_TOKENS_AT_ONCE:
            self.message_user(request, f"At most {MAX_TOKENS_AT_ONCE} devices at once.", messages.ERROR)
            return None
        issued = []
        for some in in_slices(devices):
            with transaction.atomic():
                issued += [(device, make(device)) for device in some]
                self._log_changes(request, some, entry)
        return self._show_tokens(request, issued, "New access tokens" if len(issued) > 1 else "New access token")

    def _log_changes(self, request: HttpRequest, devices: Sequence[Device], entry: str) -> None:
        LogEntry.objects.log_actions(request.user.pk or 0, devices, CHANGE, entry)

    # Deleting

    def delete_model(self, request: HttpRequest, obj: Device) -> None:
        """The device is gone at once; what it had follows, in the background."""
        self._delete(request, [obj])
        self._say_that_it_goes_on(request)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        """The same, for many."""
        for some in in_slices(list(queryset)):
            self._delete(request, some)
        self._say_that_it_goes_on(request)

    def _delete(self, request: HttpRequest, devices: Sequence[Device]) -> None:
        ids = [device.pk for device in devices]
        with transaction.atomic():
            Device.objects.filter(pk__in=ids).delete()
            Deletion.objects.filter(device_id__in=ids, finished_at=None).update(requested_by=request.user.pk)

    def _say_that_it_goes_on(self, request: HttpRequest) -> None:
        progress = format_html('<a href="{}">how far it is</a>', reverse("admin:gateway_devices_deletion_changelist"))
        text = format_html("Readings are deleted in the background: {}.", progress)
        self.message_user(request, text, messages.INFO)

    # A device's further pages

    def issue_view(self, request: HttpRequest, device_id: int) -> HttpResponse:
        """POST: one more token."""
        return self._post_tokens(request, device_id, credentials.issue, "Issued a token.")

    def rotate_view(self, request: HttpRequest, device_id: int) -> HttpResponse:
        """POST: a new token instead of those that there are."""
        return self._post_tokens(request, device_id, credentials.rotate, "Rotated the tokens.")

    def _post_tokens(self, request: HttpRequest, device_id: int, make: Any, entry: str) -> HttpResponse:
        device = self._changeable(request, device_id)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        token = make(device)
        self.log_change(request, device, entry)
        return self._show_tokens(request, [(device, token)], "New access token")

    def revoke_view(self, request: HttpRequest, device_id: int, pk: int) -> HttpResponse:
        """POST: revokes one token."""
        device = self._changeable(request, device_id)
        credential = device.credentials.filter(pk=pk).first()
        if credential is None:
            raise Http404("there is no such token")
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        credentials.revoke(credential)
        return self._revoked(
            request,
            device,
            f"Revoked the token …{credential.hint}.",
            f"The token …{credential.hint} is revoked. The device's connections are closed within two seconds.",
        )

    def distrust_view(self, request: HttpRequest, device_id: int, pk: int) -> HttpResponse:
        """POST: trusts one name in certificates no more."""
        device = self._changeable(request, device_id)
        name = device.certificate_names.filter(pk=pk).first()
        if name is None:
            raise Http404("there is no such name")
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        credentials.revoke_certificate(name)
        return self._revoked(
            request,
            device,
            f"Revoked {name}.",
            f"Certificates with {name} are not trusted any more. Connections are closed within two seconds.",
        )

    def _revoked(self, request: HttpRequest, device: Device, entry: str, message: str) -> HttpResponse:
        self.log_change(request, device, entry)
        self.message_user(request, message, messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:gateway_devices_device_change", args=[device.pk]))

    def readings_view(self, request: HttpRequest, device_id: int) -> HttpResponse:
        """The readings of one key, newest first, a page at a time. Nothing can be changed."""
        device = self.get_object(request, unquote(str(device_id)))
        if device is None or not self.has_view_permission(request, device):
            raise Http404("there is no such device")
        query = ReadingsQuery.parse(request.GET.dict())
        context = {
            **self.admin_site.each_context(request),
            "title": f"Readings of {device}",
            "opts": self.opts,
            "device": device,
            "query": query,
            "page": read_page(device.pk, query),
            "may_delete": request.user.has_perm("gateway_devices.delete_reading"),
            "whole_url": f"{reverse('device-value', args=[device.pk])}?",
        }
        return TemplateResponse(request, "admin/gateway_devices/device/readings.html", context)

    def delete_readings_view(self, request: HttpRequest, device_id: int) -> HttpResponse:
        """POST: asks whether the readings of a key, or all, in a period are to be deleted; with `sure`, orders it."""
        device = self.get_object(request, unquote(str(device_id)))
        if device is None or not self.has_view_permission(request, device):
            raise Http404("there is no such device")
        if not request.user.has_perm("gateway_devices.delete_reading"):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        readings_page = reverse("admin:gateway_devices_device_readings", args=[device.pk])
        try:
            choice = ReadingsChoice.parse(device.pk, request.POST.dict())
        except ValueError as error:
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(readings_page)
        order = Deletion.of(device, choice.key, choice.since_ms, choice.until_ms, request.user.pk)
        if "sure" in request.POST:
            with transaction.atomic():
                order.save()
                self.log_change(request, device, f"Ordered readings to be deleted: {order}.")
            self._say_that_it_goes_on(request)
            return HttpResponseRedirect(readings_page)
        context = {
            **self.admin_site.each_context(request),
            "title": "Are you sure?",
            "opts": self.opts,
            "device": device,
            "order": order,
            "fields": [(name, request.POST.get(name, "")) for name in ("key", "since", "until")],
        }
        return TemplateResponse(request, "admin/gateway_devices/device/delete_readings.html", context)

    def _changeable(self, request: HttpRequest, device_id: int) -> Device:
        device = self.get_object(request, unquote(str(device_id)))
        if device is None or not self.has_change_permission(request, device):
            raise Http404("there is no such device, or not for you to change")
        return device

    def _show_tokens(self, request: HttpRequest, issued: list[tuple[Device, str]], title: str) -> HttpResponse:
        lines = [(device, token, publish_lines(request, current(), token)) for device, token in issued]
        context = {**self.admin_site.each_context(request), "title": title, "opts": self.opts, "issued": lines}
        response = TemplateResponse(request, "admin/gateway_devices/device/tokens.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response
