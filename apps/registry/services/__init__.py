"""Every change of the registry: permission, row and audit entry in one transaction."""

from apps.registry.services.api_keys import (
    create_api_key,
    revoke_api_key,
)
from apps.registry.services.applications import (
    ApplicationChanges,
    create_application,
    delete_application,
    register_application,
    update_application,
)
from apps.registry.services.audit import (
    audited,
    failure_audited,
    record_audit,
)
from apps.registry.services.devices import (
    decide_on_device,
    forget_expired_tokens,
    renew_device,
    sign_in_device,
    sign_out_device,
    take_turns,
)
from apps.registry.services.identities import (
    find_or_welcome,
)
from apps.registry.services.members import (
    accept_invitation,
    add_member,
    change_role,
    invite_member,
    is_invited,
    remove_member,
    revoke_invitation,
    set_user_active,
)
from apps.registry.services.organizations import (
    allow_unsigned_imports,
    builtin_role,
    create_organization,
    free_organization_name,
)

__all__ = [
    "ApplicationChanges",
    "accept_invitation",
    "add_member",
    "allow_unsigned_imports",
    "audited",
    "builtin_role",
    "change_role",
    "create_api_key",
    "create_application",
    "create_organization",
    "decide_on_device",
    "delete_application",
    "failure_audited",
    "find_or_welcome",
    "forget_expired_tokens",
    "free_organization_name",
    "invite_member",
    "is_invited",
    "record_audit",
    "register_application",
    "remove_member",
    "renew_device",
    "revoke_api_key",
    "revoke_invitation",
    "set_user_active",
    "sign_in_device",
    "sign_out_device",
    "take_turns",
    "update_application",
]
