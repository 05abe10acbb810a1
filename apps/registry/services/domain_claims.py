"""Claims on e-mail domains.

Whoever has a claim gets the newcomers of a domain, so it must be theirs: either the
person who asks has a verified address there, or staff decides.
"""

from __future__ import annotations

from allauth.account.models import EmailAddress
from django.conf import settings
from django.utils import timezone

from apps import errors
from apps.registry.auth import Actor
from apps.registry.models import DomainClaim, Permission
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited
from apps.registry.services.rows import inserted, unique

# Where anybody gets an address: no organization's.
PUBLIC_MAIL_DOMAINS = frozenset(
    """
    126.com 163.com 163.net aim.com aol.com arcor.de att.net bell.net bigpond.com
    bluewin.ch bol.com.br btinternet.com comcast.net cox.net daum.net duck.com
    earthlink.net email.com fastmail.com fastmail.fm foxmail.com free.fr freenet.de
    gmail.com gmx.at gmx.ch gmx.com gmx.de gmx.net googlemail.com hanmail.net hey.com
    hotmail.co.uk hotmail.com hotmail.de hotmail.fr hotmail.it hushmail.com icloud.com
    inbox.com inbox.lv inbox.ru interia.pl laposte.net libero.it list.ru live.co.uk
    live.com live.fr mac.com mail.com mail.de mail.ee mail.ru mailbox.org mailinator.com
    me.com msn.com naver.com o2.pl onet.pl orange.fr outlook.com outlook.de outlook.fr
    passport.com pm.me posteo.de posteo.net proton.me protonmail.ch protonmail.com
    qq.com rambler.ru rediffmail.com rocketmail.com rogers.com sbcglobal.net seznam.cz
    sfr.fr shaw.ca sina.cn sina.com sky.com sohu.com sympatico.ca t-online.de
    talktalk.net tuta.com tuta.io tutanota.com tutanota.de uol.com.br verizon.net
    virgilio.it virginmedia.com wanadoo.fr web.de wp.pl ya.ru yahoo.co.in yahoo.co.jp
    yahoo.co.uk yahoo.com yahoo.com.br yahoo.de yahoo.es yahoo.fr yahoo.it yandex.com
    yandex.ru yeah.net ymail.com zoho.com zohomail.com
    """.split()  # noqa: SIM905 -- a hundred lines otherwise
)
TAKEN = "Another organization has this domain."


def request_domain_claim(*, actor: Actor, domain: str) -> DomainClaim:
    """Claim a domain. It counts at once where `CONDUCTOR_DOMAIN_CLAIMS` is `verified`
    and the person who asks has a verified address of it, else when staff approves.

    Raises: InvalidInput for no domain, or one of a public mail service; Conflict where
    it is claimed already, by this organization or with success by another.
    """
    domain = domain.lower()
    with audited(
        actor=actor,
        operation=Operation.DOMAIN_CLAIM_CREATE,
        target_type=TargetType.DOMAIN_CLAIM,
        target_id=domain,
    ) as details:
        actor.require(Permission.ORGANIZATION_WRITE)
        if domain in PUBLIC_MAIL_DOMAINS:
            raise errors.InvalidInput(
                "Anybody can have an address there.", field="domain"
            )
        status = DomainClaim.Status
        approved = DomainClaim.objects.filter(domain=domain, status=status.APPROVED)
        if approved.exclude(organization=actor.organization).exists():
            raise errors.Conflict(TAKEN, field="domain")
        claim = DomainClaim(
            organization=actor.organization,
            domain=domain,
            requested_by=actor.display,
            requested_at=timezone.now(),
        )
        if settings.CONDUCTOR_DOMAIN_CLAIMS == "verified" and _proves(actor, domain):
            claim.status = status.APPROVED
            claim.decided_at = claim.requested_at
            claim.decision_note = "Who asked has a verified address there."
        details["status"] = claim.status
        return inserted(
            claim, message="This domain is claimed already.", field="domain"
        )


def _proves(actor: Actor, domain: str) -> bool:
    addresses = EmailAddress.objects.filter(user=actor.user, verified=True)
    return (
        actor.user is not None
        and addresses.filter(email__iendswith=f"@{domain}").exists()
    )


def decide_domain_claim(
    *, actor: Actor, claim: DomainClaim, is_approved: bool
) -> DomainClaim:
    """Approve or deny a claim, also one that was decided before. Raises: Conflict where
    another organization has the domain; NotFound where the claim was released."""
    status = DomainClaim.Status.APPROVED if is_approved else DomainClaim.Status.DENIED
    with audited(
        actor=actor,
        operation=Operation.DOMAIN_CLAIM_DECIDE,
        target_type=TargetType.DOMAIN_CLAIM,
        target_id=claim.domain,
    ) as details:
        details["status"] = status
        actor.require_staff()
        with unique(TAKEN, "domain"):
            changed = DomainClaim.objects.filter(pk=claim.pk).update(
                status=status,
                decided_by=actor.display,
                decided_at=timezone.now(),
                decision_note="",
            )
        if changed != 1:
            raise errors.NotFound("No such domain claim.")
    claim.refresh_from_db()
    return claim


def release_domain_claim(*, actor: Actor, domain: str) -> None:
    """Give a domain up. Who came by it stays. Raises: NotFound."""
    domain = domain.lower()
    with audited(
        actor=actor,
        operation=Operation.DOMAIN_CLAIM_DELETE,
        target_type=TargetType.DOMAIN_CLAIM,
        target_id=domain,
    ):
        actor.require(Permission.ORGANIZATION_WRITE)
        claims = DomainClaim.objects.filter(
            organization=actor.organization, domain=domain
        )
        if not claims.delete()[0]:
            raise errors.NotFound("No such domain claim.")
