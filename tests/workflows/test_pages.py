"""One workflow's page, and the pages that ask before an order is given."""

from __future__ import annotations

import re
import uuid
from html import unescape
from typing import Any

import pytest
from django.urls import reverse

from apps.workflows.models import WorkflowSnapshot
from apps.workflows.templatetags.workflows import PAYLOAD_CHARS, payload, visible
from tests.workflows.conftest import Browser, Served
from tests.workflows.executor import NOON, SECOND, workflow

IDS = (
    "plain",
    "a/b?c#d%2F",
    "100%",
    "~tilde~2F",
    ".",
    "..",
    "...",
    "./../x",
    " lead and trail ",
    "ünï/côdé 日本 𝕏",
    'quote"<b>&amp;',
    "new\nline\ttab",
    "back\\slash",
    "cancel",
    "a//b",
    "+plus+",
    "x" * 1_000,
)


def page_of(served: Served, workflow_id: str) -> str:
    return reverse("workflows:workflow_detail", args=["acme", "orders", workflow_id])


@pytest.fixture
def client(served: Served, browser: Browser) -> Any:
    return browser(served.world.alice)


def test_any_id_has_a_page_and_a_link_to_it(served: Served, client: Any) -> None:
    rows = [workflow(i, NOON + n, WorkflowName=f"n{n}") for n, i in enumerate(IDS)]
    executor = served.connect(rows=rows)
    listed = client.get(served.world.url).content.decode()
    links = set(
        re.findall(r'href="(/orgs/acme/apps/orders/workflows/[^"?]+/)"', listed)
    )

    assert links == {page_of(served, workflow_id) for workflow_id in IDS}
    for workflow_id in IDS:
        response = client.get(page_of(served, workflow_id))
        assert response.status_code == 200, workflow_id
        assert executor.last("get_workflow")["workflow_id"] == workflow_id


@pytest.mark.parametrize(
    "workflow_id", ["a/b?c#d%2F", "..", "ünï/côdé 日本 𝕏", "new\nline\ttab"]
)
def test_order_to_any_id_reaches_that_workflow(
    served: Served, client: Any, workflow_id: str
) -> None:
    executor = served.connect(rows=[workflow(workflow_id, status="PENDING")])

    response = client.post(page_of(served, workflow_id) + "cancel/", follow=True)

    assert response.redirect_chain == [(page_of(served, workflow_id), 302)]
    assert b"Cancelled." in response.content
    assert executor.workflows[workflow_id]["Status"] == "CANCELLED"


def test_page_shows_steps_children_and_payloads(served: Served, client: Any) -> None:
    executor = served.connect(
        rows=[
            workflow(
                "w1",
                Input="{'args': (1,)}",
                Output="done & dusted",
                QueueName="mail",
                ForkedFrom="old/one",
                ParentWorkflowID="par ent",
                CompletedAt=str(NOON + 90 * SECOND),
            )
        ]
    )
    executor.steps["w1"] = [
        {
            "function_id": 1,
            "function_name": "charge",
            "output": "42",
            "started_at_epoch_ms": str(NOON),
            "completed_at_epoch_ms": str(NOON + 1_500),
        },
        {
            "function_id": 2,
            "function_name": "ship",
            "error": "no <stock>",
            "child_workflow_id": "child/1",
        },
    ]
    executor.events = [{"key": "phase", "value": "answered"}]

    page = client.get(page_of(served, "w1")).content.decode()

    for text in ("charge", "1.5 s", "1 min 30 s", "mail", "phase", "answered"):
        assert text in page
    assert "done &amp; dusted" in page and "no &lt;stock&gt;" in page
    for other in ("child/1", "old/one", "par ent"):
        assert f'href="{page_of(served, other)}"' in page
    assert '<rect x="0.0" width="100.0"' in page
    assert "?start_step=2" in page


def test_many_steps_are_paged(served: Served, client: Any) -> None:
    for number, version in enumerate(("3.2.0", "2.10.0")):
        executor = served.connect(f"x{number}", rows=[workflow("w1")], version=version)
        executor.steps["w1"] = [
            {"function_id": n, "function_name": f"step-{n:03}"} for n in range(1, 251)
        ]
        shown = [
            re.findall(r"step-(\d+)", client.get(url).content.decode())
            for url in (
                page_of(served, "w1"),
                page_of(served, "w1") + "?steps=100",
                page_of(served, "w1") + "?steps=200",
                page_of(served, "w1") + "?steps=many",
            )
        ]
        served.leave()

        assert [len(one) for one in shown] == [100, 100, 50, 100]
        assert (shown[1][0], shown[2][-1]) == ("101", "250")


def test_unknown_id_is_a_page_that_says_so(served: Served, client: Any) -> None:
    served.connect()
    WorkflowSnapshot.objects.create(
        application=served.application,
        workflow_id="gone",
        status="PENDING",
        created_at="2026-01-01T00:00Z",
        updated_at="2026-01-01T00:00Z",
    )

    response = client.get(page_of(served, "gone"))

    assert response.status_code == 404
    assert "orders has no workflow with this id" in response.content.decode()
    assert not WorkflowSnapshot.objects.exists()


def test_away_application_shows_what_was_known_and_when(
    served: Served, client: Any
) -> None:
    executor = served.connect(rows=[workflow("w1", Input="a secret")])
    executor.steps["w1"] = [{"function_id": 1, "function_name": "charge"}]
    client.get(page_of(served, "w1"))
    served.leave()

    page = client.get(page_of(served, "w1")).content.decode()

    assert "As of" in page and "No executor of orders is connected." in page
    assert "Steps can only be read from a connected executor." in page
    assert "a secret" not in page and "charge" not in page
    assert "cancel/" not in page


def test_away_application_and_unknown_id(served: Served, client: Any) -> None:
    response = client.get(page_of(served, "w1"))

    assert response.status_code == 404
    assert "cannot ask for it now" in response.content.decode()


def test_private_application_shows_no_payload(served: Served, client: Any) -> None:
    """An SDK that is too old to leave them out sends them all the same."""
    rows = [workflow("w1", Input="a secret", Output="a secret")]
    executor = served.connect(rows=rows, version="1.14.0")
    executor.steps["w1"] = [
        {"function_id": 1, "function_name": "charge", "output": "a secret"}
    ]
    served.application.private_mode = True
    served.application.save(update_fields=["private_mode"])

    page = client.get(page_of(served, "w1")).content.decode()

    assert "charge" in page
    assert "a secret" not in page
    assert executor.count("get_workflow_events") == 0


def test_silent_parts_do_not_hold_up_the_page(
    served: Served, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.workflows.selectors.READ_BUDGET_S", 1.0)
    executor = served.connect(rows=[workflow("w1", Output="the output")])
    executor.silent |= {"list_steps", "get_workflow_events"}

    page = client.get(page_of(served, "w1")).content.decode()

    assert "The steps could not be read just now." in page
    assert "the output" in page


def test_huge_and_hostile_values_are_cut_and_escaped(
    served: Served, client: Any
) -> None:
    hostile = "<script>alert(1)</script>\u202egnp.exe\x07"
    rows = [
        workflow("w1", Input="x" * 5_000_000, Output=hostile, WorkflowName=hostile * 50)
    ]
    executor = served.connect(rows=rows)
    executor.steps["w1"] = [
        {"function_id": n, "function_name": hostile, "output": "y" * 50_000}
        for n in range(1, 101)
    ]

    content = client.get(page_of(served, "w1")).content.decode()

    assert "<script>alert" not in content
    assert "\u202e" not in content and "\x07" not in content
    assert "The first 20,000 of 5,000,000 characters." in content
    assert len(content) < 500_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("windows\r\nlines", "windows\nlines"),
        ("bell\x07 escape\x1b[31m", "bell\u2407 escape\u241b[31m"),
        ("\u202eturned\u2066", "\\u202eturned\\u2066"),
        ("日本 é 𝕏", "日本 é 𝕏"),
    ],
)
def test_payload_shows_what_is_there(text: str, expected: str) -> None:
    shown = unescape(payload(text))

    assert shown.endswith(f">{expected}</pre>")


def test_payload_is_whole_up_to_its_limit() -> None:
    assert "data-cut" not in payload("x" * PAYLOAD_CHARS)
    assert "data-cut" in payload("x" * (PAYLOAD_CHARS + 1))


def test_names_stay_on_one_line() -> None:
    assert visible("a\nb\u200bc") == "a\u240ab\\u200bc"
    assert visible(None) == ""


def test_detail_page_takes_few_queries(
    served: Served, client: Any, django_assert_max_num_queries: Any
) -> None:
    served.connect(rows=[workflow("w1")])
    client.get(page_of(served, "w1"))

    with django_assert_max_num_queries(14):
        client.get(page_of(served, "w1"))


@pytest.mark.parametrize(("status", "polls"), [("PENDING", True), ("SUCCESS", False)])
def test_fragment_polls_until_it_is_finished(
    served: Served, client: Any, status: str, polls: bool
) -> None:
    served.connect(rows=[workflow("w1", status=status)])

    response = client.get(page_of(served, "w1"), headers={"HX-Request": "true"})

    text = response.content.decode().strip()
    assert text.startswith('<div id="workflow"') and text.endswith("</div>")
    assert ("hx-trigger" in text.split(">")[0]) is polls


# --- Orders --------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["cancel", "resume", "fork", "delete"])
def test_each_order_is_asked_about_first(
    served: Served, client: Any, verb: str
) -> None:
    executor = served.connect(rows=[workflow("w1", status="CANCELLED")])

    response = client.get(page_of(served, "w1") + f"{verb}/")

    page = response.content.decode()
    assert response.status_code == 200
    assert f'method="post" action="{page_of(served, "w1")}{verb}/"' in page
    assert executor.asked[1:] == []


def test_fork_form_makes_its_own_id_and_names_the_step(
    served: Served, client: Any
) -> None:
    executor = served.connect(rows=[workflow("w1")])
    form = client.get(page_of(served, "w1") + "fork/?start_step=3").content.decode()
    new_id = re.search(r'name="new_workflow_id" value="([0-9a-f-]{36})"', form)
    assert new_id and 'name="start_step" value="3"' in form
    data = {"start_step": 3, "new_workflow_id": new_id[1]}

    for _ in range(2):
        response = client.post(page_of(served, "w1") + "fork/", data)
        assert response["Location"] == page_of(served, new_id[1])

    assert executor.count("fork_workflow") == 1
    assert executor.last("fork_workflow")["body"]["start_step"] == 3


@pytest.mark.parametrize(
    "data",
    [
        {"start_step": "-1"},
        {"start_step": "two"},
        {"start_step": str(10**9)},
        {"new_workflow_id": "../../etc"},
        {"application_version": "v" * 256},
        {"application_version": "v\x00"},
    ],
)
def test_bad_fork_is_explained_and_not_sent(
    served: Served, client: Any, data: dict[str, str]
) -> None:
    executor = served.connect(rows=[workflow("w1")])

    response = client.post(page_of(served, "w1") + "fork/", data)

    assert response.status_code == 422
    assert executor.asked[1:] == []


def test_finished_workflow_says_so_instead_of_cancelled(
    served: Served, client: Any
) -> None:
    served.connect(rows=[workflow("w1")])

    response = client.post(page_of(served, "w1") + "cancel/", follow=True)

    assert b"already finished (SUCCESS)" in response.content


def test_deleted_workflow_leads_to_the_list(served: Served, client: Any) -> None:
    served.connect(rows=[workflow("w1")])

    response = client.post(page_of(served, "w1") + "delete/", follow=True)

    assert response.redirect_chain == [(served.world.url, 302)]
    assert b"Deleted, with its history." in response.content


@pytest.mark.parametrize("verb", ["cancel", "resume", "fork", "delete"])
def test_order_to_a_missing_workflow_is_not_found(
    served: Served, client: Any, verb: str
) -> None:
    served.connect()

    response = client.post(page_of(served, "nobody") + f"{verb}/")

    assert response.status_code == 404
    assert "There is no such workflow." in response.content.decode()


def test_ticked_workflows_are_asked_about_then_ordered(
    served: Served, client: Any
) -> None:
    ids = ["a/b", "c d", "ü"]
    executor = served.connect(rows=[workflow(i, status="PENDING") for i in ids])
    executor.workflows["ü"]["Status"] = "SUCCESS"
    url = served.world.bulk_url + "cancel/"

    asked = client.post(url, {"id": ids}).content.decode()
    assert executor.count("cancel") == 0
    assert re.findall(r'name="id" value="([^"]+)"', asked) == ids
    told = client.post(url, {"id": ids, "confirmed": "on"}).content.decode()

    assert re.findall(r'data-result="(\w+)"', told) == ["done", "done", "nothing"]
    assert "2 of 3 done" in told
    assert executor.workflows["c d"]["Status"] == "CANCELLED"


@pytest.mark.parametrize("verb", ["resume", "delete"])
def test_other_orders_to_ticked_workflows(
    served: Served, client: Any, verb: str
) -> None:
    executor = served.connect(rows=[workflow("w1", status="CANCELLED")])

    told = client.post(
        served.world.bulk_url + f"{verb}/", {"id": ["w1", "w2"], "confirmed": "on"}
    )

    results = re.findall(r'data-result="(\w+)"', told.content.decode())
    assert results == ["done", "missing"]
    assert executor.count(verb) == 1


@pytest.mark.parametrize(
    "ids", [[], [""], ["nul\x00"], [str(uuid.uuid4()) for _ in range(101)]]
)
def test_bad_ticks_are_refused(served: Served, client: Any, ids: list[str]) -> None:
    executor = served.connect()

    response = client.post(
        served.world.bulk_url + "delete/", {"id": ids, "confirmed": "on"}
    )

    assert response.status_code == 422
    assert executor.asked[1:] == []


def test_read_only_member_sees_no_orders(served: Served, browser: Browser) -> None:
    served.connect(rows=[workflow("w1", status="PENDING")])
    bob = browser(served.world.bob)

    listed = bob.get(served.world.url).content.decode()
    shown = bob.get(page_of(served, "w1")).content.decode()

    assert "w1" in listed and 'type="checkbox"' not in listed
    assert "cancel/" not in shown and "delete/" not in shown
    assert bob.get(page_of(served, "w1") + "delete/").status_code == 403
    assert bob.post(page_of(served, "w1") + "delete/").status_code == 403
    bulk = {"id": ["w1"], "confirmed": "on"}
    assert bob.post(served.world.bulk_url + "delete/", bulk).status_code == 403


@pytest.mark.parametrize("path", ["", "w1/", "w1/cancel/"])
def test_stranger_finds_nothing(served: Served, browser: Browser, path: str) -> None:
    response = browser(served.world.mallory).get(served.world.url + path)

    assert response.status_code == 404
