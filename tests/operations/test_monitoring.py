"""The monitoring: the alerts fire when they should, and what they and the panels ask for exists."""

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.settings import read_settings
from tests.support.client import Client, code
from tests.support.database import Database
from tests.support.paths import ROOT
from tests.support.services import RunningService, Starter
from tests.support.waiting import wait_until

STORIES = Path(__file__).with_name("alerts.test.yml")
MONITOR = ROOT / "docs" / "how-to" / "monitor"
CONFIGURATION = yaml.safe_load((MONITOR / "prometheus.yml").read_text())
ALERTS = yaml.safe_load((MONITOR / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((MONITOR / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

TARGETS = [
    # What Grafana puts in the place of its variables.
    target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".+")
    for panel in PANELS
    for target in panel["targets"]
]
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
EXPRESSIONS = [
    *TARGETS,
    *re.findall(r"label_values\((.+), instance\)", VARIABLES["instance"]["query"]["query"]),
    *(alert["expr"] for alert in ALERTS),
]

OF_PROMETHEUS = {"instance", "job"}
"""The labels that it gives to all that it has scraped; and ``up`` is a figure of its own."""

Told = dict[str, dict[str, set[str]]]
"""The names of all samples, with their labels, with the values of those."""


class Promtool(Protocol):
    """What the fixture ``promtool`` is."""

    def __call__(self, *arguments: object) -> None:
        """Run it, and have it find nothing wrong."""


@pytest.fixture
def promtool() -> Promtool:
    """Prometheus's own checker."""
    program = _found("promtool")

    def run(*arguments: object) -> None:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def _found(name: str) -> str:
    """Return where a program of Prometheus is."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"there is no {name} here: Debian has it in its package prometheus")
    return program


class Selector(NamedTuple):
    """A figure that an expression asks for: ``name{label="value"}``."""

    name: str
    matchers: list[tuple[str, str, str]]
    """Of a label, an operator, and a value or a pattern."""


_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[A-Za-z_:][\w:]*|\d[\w.]*|=~|!~|!=|\S')
_GROUPS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "offset", "bool"}


def read_promql(expression: str) -> tuple[list[Selector], set[str]]:
    """Return the figures that an expression asks for, and the labels that it groups by."""
    selectors: list[Selector] = []
    groups: set[str] = set()
    tokens = [*_TOKEN.findall(expression), ""]
    while len(tokens) > 1:
        word, following = tokens.pop(0), tokens[0]
        is_function = following == "(" or following in _GROUPS
        if word in _GROUPS:
            end = tokens.index(")")
            groups |= {name for name in tokens[:end] if name.isidentifier()}
            del tokens[:end]
        elif word == "{":
            end = tokens.index("}")
            inside = [part for part in tokens[:end] if part != ","]
            for label, operator, value in zip(*[iter(inside)] * 3, strict=True):
                selectors[-1].matchers.append((label, operator, value.strip('"')))
            del tokens[:end]
        elif re.match("[A-Za-z_:]", word) and word not in _WORDS and not is_function:
            selectors.append(Selector(word, []))
    return selectors, groups


def missing(expression: str, told: Told) -> list[str]:
    """Return what an expression asks for and the service has not told."""
    selectors, groups = read_promql(expression)
    assert selectors, f"it asks for nothing: {expression}"
    lacking, labels = [], set(OF_PROMETHEUS)
    for name, matchers in selectors:
        if name == "up":
            continue
        if name not in told:
            lacking.append(name)
            continue
        labels |= told[name].keys()
        for label, operator, value in matchers:
            if label in OF_PROMETHEUS:
                continue
            if label not in told[name]:
                lacking.append(f"{name}{{{label}}}")
            elif operator in ("=", "=~"):
                patterns = value.split("|") if operator == "=~" else [re.escape(value)]
                lacking += [
                    f"{name}{{{label}={pattern}}}"
                    for pattern in patterns
                    if not any(re.fullmatch(pattern, shown) for shown in told[name][label])
                ]
    return lacking + sorted(groups - labels)


@pytest.fixture
def eventful(unbalanced_database: Database, start: Starter) -> RunningService:
    """A service that has seen a small sale in which all went wrong that can."""
    service = start(unbalanced_database)
    with service.client() as client:
        _sell(client, unbalanced_database)
        wait_until(lambda: "holdfast_pool_connections{" in client.get("/metrics").text)
    return service


def _sell(client: Client, database: Database) -> None:
    event = client.create_event(tickets=9)
    cancelled, refunded, lapsed, kept = client.hold(event, quantity=4)
    client.cancel(cancelled)
    client.pay(refunded)
    client.refund(refunded)
    database.lapse(lapsed)
    client.hold(event, quantity=2)
    # A lock that is not to be had in time.
    with database.holding(event):
        assert code(client.reserve(event)) == (503, "BUSY")
    # A statement that is ended, and a connection that breaks in the middle of a transaction.
    for how, told in (("cancel", "BUSY"), ("terminate", "OUTCOME_UNKNOWN")):
        with ThreadPoolExecutor(1) as pool, database.holding(event) as rival:
            answering = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            rival.execute(
                f"select pg_{how}_backend(pid) from pg_stat_activity where datname = "
                "current_database() and wait_event_type = 'Lock' "
                "and application_name = 'holdfast'".encode()
            )
            assert code(answering.result()) == (503, told)
    # An error that there should not be.
    database.psql("alter table ticket_allocations add check (status <> 'purchased') not valid")
    assert code(client.pay(kept)) == (500, "INTERNAL_SERVER_ERROR")


@pytest.fixture
def told(eventful: RunningService) -> Told:
    """What that service tells."""
    with eventful.client() as client:
        text = client.get("/metrics").text
    found: Told = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def test_all_that_is_asked_for_is_there(told: Told) -> None:
    lacking = {expression: missing(expression, told) for expression in EXPRESSIONS}
    assert {expression: names for expression, names in lacking.items() if names} == {}


@pytest.mark.parametrize(
    ("expression", "lacking"),
    [
        ('sum by (change) (rate(holdfast_tickets_total{change="reserved"}[1m])) / 2', []),
        ("rate(holdfast_ticket_total[1m])", ["holdfast_ticket_total"]),
        ("sum by (kind) (holdfast_tickets_total)", ["kind"]),
        ('holdfast_tickets_total{kind="reserved"}', ["holdfast_tickets_total{kind}"]),
        ('1 - holdfast_tickets_total{change="sold"}', ["holdfast_tickets_total{change=sold}"]),
        (
            'up == 0 and on (job) holdfast_tickets_total{change=~"reserved|sol."} offset 5m > 2e3',
            ["holdfast_tickets_total{change=sol.}"],
        ),
    ],
)
def test_what_is_not_there_would_be_found(expression: str, lacking: list[str]) -> None:
    told: Told = {"holdfast_tickets_total": {"change": {"reserved", "expired"}}}
    assert missing(expression, told) == lacking


def test_prometheus_reads_the_configuration_and_the_rules(promtool: Promtool) -> None:
    promtool("check", "config", MONITOR / "prometheus.yml")
    promtool("check", "rules", MONITOR / "alerts.yml")


def test_prometheus_reads_every_expression_of_the_dashboard(
    promtool: Promtool, tmp_path: Path
) -> None:
    rules = [{"record": f"panel:{n}", "expr": target} for n, target in enumerate(TARGETS)]
    (tmp_path / "panels.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]})
    )
    promtool("check", "rules", tmp_path / "panels.yml")


def test_each_alert_fires_when_it_should_and_not_otherwise(promtool: Promtool) -> None:
    promtool("test", "rules", STORIES)


def test_no_alert_is_left_out_of_that() -> None:
    stories = yaml.safe_load((STORIES).read_text())["tests"]
    asked = [moment for story in stories for moment in story["promql_expr_test"]]
    fired = {
        name
        for moment in asked
        for sample in moment.get("exp_samples", ())
        for name in re.findall('alertname="(.*?)"', sample["labels"])
    }
    assert fired == {alert["alert"] for alert in ALERTS}
    assert all("ALERTS" in moment["expr"] for moment in asked)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert notes["summary"]
    assert len(notes["description"]) > 80
    path, _, section = notes["runbook"].partition("#")
    headings = re.findall("^### (.+)$", (ROOT / path).read_text(), re.M)
    assert section in [heading.lower() for heading in headings]
    _, groups = read_promql(alert["expr"])
    shown = set(re.findall(r"\$labels\.(\w+)", " ".join(notes.values())))
    assert shown <= (groups or OF_PROMETHEUS)


def test_each_section_on_an_alert_has_its_alert() -> None:
    headings = re.findall("^### (Holdfast.+)$", (MONITOR.parent / "monitor.md").read_text(), re.M)
    assert headings == [alert["alert"] for alert in ALERTS]


def test_the_alerts_know_the_configuration() -> None:
    (scrape,) = CONFIGURATION["scrape_configs"]
    settings = read_settings({})
    assert scrape["static_configs"][0]["targets"] == [f"{settings.host}:{settings.port}"]
    (down,) = [alert for alert in ALERTS if alert["alert"] == "HoldfastDown"]
    assert f'job="{scrape["job_name"]}"' in down["expr"]
    (queue,) = [alert for alert in ALERTS if alert["alert"] == "HoldfastQueueLong"]
    assert queue["expr"].endswith(f" > {settings.queue_limit * 4 // 5}")


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert DASHBOARD["schemaVersion"] >= 36  # the first to know a data source by type and uid
    assert DASHBOARD["id"] is None
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["instance"]["datasource"] == source
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    squares = [
        (place["x"] + x, place["y"] + y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(squares) == len(set(squares)), "one lies over another"
    assert max(x for x, _ in squares) < 24
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == source
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert "$instance" in target["expr"]
            _, groups = read_promql(target["expr"])
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= (groups or OF_PROMETHEUS), panel["title"]


def test_every_panel_has_something_to_show(
    eventful: RunningService, tmp_path: Path, unused_port: int
) -> None:
    """With the figures that a real Prometheus has scraped, and the rules that it has loaded."""
    program = _found("prometheus")
    address = eventful.url.removeprefix("http://")
    configuration = (MONITOR / "prometheus.yml").read_text()
    configuration = re.sub("targets: .*", f"targets: ['{address}']", configuration)
    configuration = configuration.replace("alerts.yml", str(MONITOR / "alerts.yml"))
    (tmp_path / "prometheus.yml").write_text(configuration.replace(" 5s", " 1s"))
    prometheus = subprocess.Popen(
        [
            program,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{unused_port}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{unused_port}/api/v1") as asking:

            def empty() -> list[str]:
                try:
                    return [target for target in TARGETS if not _asked(asking, target)]
                except httpx2.TransportError:
                    return TARGETS

            wait_until(lambda: prometheus.poll() is not None or not empty())
            assert prometheus.poll() is None
            (group,) = asking.get("/rules").json()["data"]["groups"]
            assert {rule["name"]: rule.get("lastError", "") for rule in group["rules"]} == {
                alert["alert"]: "" for alert in ALERTS
            }
    finally:
        prometheus.terminate()
        prometheus.wait()


def _asked(prometheus: httpx2.Client, expression: str) -> list[Any]:
    """Return the series that an expression comes to."""
    answer = prometheus.get("/query", params={"query": expression})
    assert answer.status_code in (200, 503), answer.text
    found: list[Any] = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return found
