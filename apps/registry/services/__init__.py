"""Every change of the registry: permission, row and audit entry in one transaction."""

from apps.registry.services.api_keys import (
    create_api_key,
    delete_api_key,
    rename_api_key,
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
    expire_audit_entries,
    failure_audited,
    record_audit,
    record_failure,
)
from apps.registry.services.devices import (
    decide_on_device,
    forget_expired_tokens,
    renew_device,
    sign_in_device,
    sign_out_device,
    take_turns,
)
from apps.registry.services.domain_claims import (
    decide_domain_claim,
    release_domain_claim,
    request_domain_claim,
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
    join_by_domain,
    remove_member,
    revoke_invitation,
    set_user_active,
)
from apps.registry.services.organizations import (
    OrganizationChanges,
    builtin_role,
    create_organization,
    free_organization_name,
    update_organization,
)
from apps.registry.services.people import (
    free_username,
    register_user,
    settle,
)
from apps.registry.services.roles import (
    create_role,
    delete_role,
)

__all__ = [
    "ApplicationChanges",
    "OrganizationChanges",
    "accept_invitation",
    "add_member",
    "audited",
    "builtin_role",
    "change_role",
    "create_api_key",
    "create_application",
    "create_organization",
    "create_role",
    "decide_domain_claim",
    "decide_on_device",
    "delete_api_key",
    "delete_application",
    "delete_role",
    "expire_audit_entries",
    "failure_audited",
    "find_or_welcome",
    "forget_expired_tokens",
    "free_organization_name",
    "free_username",
    "invite_member",
    "is_invited",
    "join_by_domain",
    "record_audit",
    "record_failure",
    "register_application",
    "register_user",
    "release_domain_claim",
    "remove_member",
    "rename_api_key",
    "renew_device",
    "request_domain_claim",
    "revoke_api_key",
    "revoke_invitation",
    "set_user_active",
    "settle",
    "sign_in_device",
    "sign_out_device",
    "take_turns",
    "update_application",
    "update_organization",
]
