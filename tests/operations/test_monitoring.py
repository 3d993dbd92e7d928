"""Monitoring: the alerts fire when they should, and every metric that is queried exists."""

import json
import re
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
from tests.support.tools import find_tool
from tests.support.waiting import wait_until

ALERT_TESTS = Path(__file__).with_name("alerts.test.yml")
MONITOR = ROOT / "docs" / "how-to" / "monitor"
CONFIGURATION = yaml.safe_load((MONITOR / "prometheus.yml").read_text())
ALERTS = yaml.safe_load((MONITOR / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((MONITOR / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

TARGETS = [
    # Replace the variables like Grafana does.
    target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".+")
    for panel in PANELS
    for target in panel["targets"]
]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
EXPRESSIONS = [
    *TARGETS,
    *re.findall(r"label_values\((.+), instance\)", VARIABLES["instance"]["query"]["query"]),
    *(alert["expr"] for alert in ALERTS),
]

# The labels that Prometheus adds to all it scrapes; the metric ``up`` is its own, too.
PROMETHEUS_LABELS = {"instance", "job"}

# The values of each label of each metric.
Metrics = dict[str, dict[str, set[str]]]


class Promtool(Protocol):
    """The type of the fixture ``promtool``."""

    def __call__(self, *arguments: object) -> None:
        """Run promtool, which must find no error."""


@pytest.fixture
def promtool() -> Promtool:
    """The checker that comes with Prometheus."""
    program = find_tool("promtool", package="prometheus")

    def run(*arguments: object) -> None:
        process = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stdout + process.stderr

    return run


class Selector(NamedTuple):
    """A metric in an expression: ``name{label="value"}``."""

    name: str
    # Label, operator, and value or pattern.
    matchers: list[tuple[str, str, str]]


_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[A-Za-z_:][\w:]*|\d[\w.]*|=~|!~|!=|\S')
_GROUPS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "offset", "bool"}


def read_promql(expression: str) -> tuple[list[Selector], set[str]]:
    """Return the selectors in an expression, and the labels that it groups by."""
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


def find_missing(expression: str, metrics: Metrics) -> list[str]:
    """Return the metrics and labels of an expression that the service does not have."""
    selectors, groups = read_promql(expression)
    assert selectors, f"no metric in this expression: {expression}"
    missing_names, labels = [], set(PROMETHEUS_LABELS)
    for name, matchers in selectors:
        if name == "up":
            continue
        if name not in metrics:
            missing_names.append(name)
            continue
        labels |= metrics[name].keys()
        for label, operator, value in matchers:
            if label in PROMETHEUS_LABELS:
                continue
            if label not in metrics[name]:
                missing_names.append(f"{name}{{{label}}}")
            elif operator in ("=", "=~"):
                patterns = value.split("|") if operator == "=~" else [re.escape(value)]
                missing_names += [
                    f"{name}{{{label}={pattern}}}"
                    for pattern in patterns
                    if not any(re.fullmatch(pattern, existing) for existing in metrics[name][label])
                ]
    return missing_names + sorted(groups - labels)


@pytest.fixture
def service_after_errors(unbalanced_database: Database, start: Starter) -> RunningService:
    """A service after a small sale with every kind of error."""
    service = start(unbalanced_database)
    with service.client() as client:
        sell_with_errors(client, unbalanced_database)
        wait_until(lambda: "holdfast_pool_connections{" in client.get("/metrics").text)
    return service


def sell_with_errors(client: Client, database: Database) -> None:
    event = client.create_event(tickets=9)
    cancelled, refunded, lapsed, held = client.hold(event, quantity=4)
    client.cancel(cancelled)
    client.pay(refunded)
    client.refund(refunded)
    database.expire_hold(lapsed)
    client.hold(event, quantity=2)
    # A lock timeout.
    with database.lock_event(event):
        assert code(client.reserve(event)) == (503, "BUSY")
    # A cancelled statement, and a connection terminated during a transaction.
    for function, refusal in (("cancel", "BUSY"), ("terminate", "OUTCOME_UNKNOWN")):
        with ThreadPoolExecutor(1) as pool, database.lock_event(event) as rival:
            reserving = pool.submit(client.reserve, event)
            database.wait_until_blocked()
            rival.execute(
                f"select pg_{function}_backend(pid) from pg_stat_activity where datname = "
                "current_database() and wait_event_type = 'Lock' "
                "and application_name = 'holdfast'".encode()
            )
            assert code(reserving.result()) == (503, refusal)
    # An internal error.
    database.psql("alter table ticket_allocations add check (status <> 'purchased') not valid")
    assert code(client.pay(held)) == (500, "INTERNAL_SERVER_ERROR")


@pytest.fixture
def metrics(service_after_errors: RunningService) -> Metrics:
    """The metrics of that service."""
    with service_after_errors.client() as client:
        text = client.get("/metrics").text
    metrics: Metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = metrics.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return metrics


def test_every_metric_in_an_expression_exists(metrics: Metrics) -> None:
    missing_names = {expression: find_missing(expression, metrics) for expression in EXPRESSIONS}
    assert {expression: names for expression, names in missing_names.items() if names} == {}


@pytest.mark.parametrize(
    ("expression", "missing_names"),
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
def test_a_missing_metric_or_label_is_found(expression: str, missing_names: list[str]) -> None:
    metrics: Metrics = {"holdfast_tickets_total": {"change": {"reserved", "expired"}}}
    assert find_missing(expression, metrics) == missing_names


def test_prometheus_accepts_the_configuration_and_the_rules(promtool: Promtool) -> None:
    promtool("check", "config", MONITOR / "prometheus.yml")
    promtool("check", "rules", MONITOR / "alerts.yml")


def test_prometheus_accepts_every_expression_of_the_dashboard(
    promtool: Promtool, tmp_path: Path
) -> None:
    rules = [{"record": f"panel:{n}", "expr": target} for n, target in enumerate(TARGETS)]
    (tmp_path / "panels.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]})
    )
    promtool("check", "rules", tmp_path / "panels.yml")


def test_each_alert_fires_only_when_it_should(promtool: Promtool) -> None:
    promtool("test", "rules", ALERT_TESTS)


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((ALERT_TESTS).read_text())["tests"]
    checks = [check for story in tests for check in story["promql_expr_test"]]
    fired = {
        name
        for check in checks
        for sample in check.get("exp_samples", ())
        for name in re.findall('alertname="(.*?)"', sample["labels"])
    }
    assert fired == {alert["alert"] for alert in ALERTS}
    assert all("ALERTS" in check["expr"] for check in checks)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert notes["summary"]
    assert len(notes["description"]) > 80
    path, _, section = notes["runbook"].partition("#")
    headings = re.findall("^### (.+)$", (ROOT / path).read_text(), re.M)
    assert section in [heading.lower() for heading in headings]
    _, groups = read_promql(alert["expr"])
    labels_shown = set(re.findall(r"\$labels\.(\w+)", " ".join(notes.values())))
    assert labels_shown <= (groups or PROMETHEUS_LABELS)


def test_the_page_has_a_section_for_every_alert() -> None:
    headings = re.findall("^### (Holdfast.+)$", (MONITOR.parent / "monitor.md").read_text(), re.M)
    assert headings == [alert["alert"] for alert in ALERTS]


def test_the_alerts_match_the_configuration() -> None:
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
    assert len(squares) == len(set(squares)), "two panels overlap"
    assert max(x for x, _ in squares) < 24
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == source
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert "$instance" in target["expr"]
            _, groups = read_promql(target["expr"])
            labels_shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels_shown <= (groups or PROMETHEUS_LABELS), panel["title"]


def test_every_panel_shows_data(
    service_after_errors: RunningService, tmp_path: Path, unused_port: int
) -> None:
    """A real Prometheus scrapes the service and loads the rules."""
    program = find_tool("prometheus", package="prometheus")
    address = service_after_errors.url.removeprefix("http://")
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
        with httpx2.Client(base_url=f"http://127.0.0.1:{unused_port}/api/v1") as prometheus_api:

            def empty() -> list[str]:
                try:
                    return [target for target in TARGETS if not query(prometheus_api, target)]
                except httpx2.TransportError:
                    return TARGETS

            wait_until(lambda: prometheus.poll() is not None or not empty())
            assert prometheus.poll() is None
            (group,) = prometheus_api.get("/rules").json()["data"]["groups"]
            assert {rule["name"]: rule.get("lastError", "") for rule in group["rules"]} == {
                alert["alert"]: "" for alert in ALERTS
            }
    finally:
        prometheus.terminate()
        prometheus.wait()


def query(prometheus: httpx2.Client, expression: str) -> list[Any]:
    """Return the series that an expression evaluates to."""
    response = prometheus.get("/query", params={"query": expression})
    assert response.status_code in (200, 503), response.text
    series: list[Any] = response.json()["data"]["result"] if response.status_code == 200 else []
    return series
