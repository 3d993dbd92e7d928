"""The files of the box office: served with ETags, under a policy that allows them alone."""

import re

import httpx2

from service.web.page_files import PAGES, PARTS
from tests.support.services import RunningService


def test_every_file_of_the_box_office_is_served_with_an_etag(service: RunningService) -> None:
    # Not the client that compares each response with the API's description: files are no API.
    with httpx2.Client(base_url=service.url) as browser:
        media_types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
        paths = ["/", "/docs", *(f"/box-office/{file.name}" for file in PARTS.iterdir())]
        assert len(paths) > 10
        for path in paths:
            first = browser.get(path)
            assert first.status_code == 200, path
            assert first.headers["Cache-Control"] == "no-cache"
            extension = path.rpartition(".")[2]
            if extension in media_types:
                assert first.headers["Content-Type"] == media_types[extension]
            again = browser.get(path, headers={"If-None-Match": first.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b""), path
            other = browser.get(path, headers={"If-None-Match": '"another"'})
            assert other.content == first.content
        for path in ("/box-office/", "/box-office/../index.html", "/box-office/none.js"):
            assert browser.get(path).status_code == 404


def test_the_policy_of_the_box_office_allows_its_own_files_alone(service: RunningService) -> None:
    policy = httpx2.get(service.url).headers["Content-Security-Policy"]
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    assert directives.pop("default-src") == "'none'"
    assert set(directives.values()) == {"'none'", "'self'"}
    page = (PAGES / "index.html").read_text()
    # Nothing that the policy would block.
    assert re.findall(r"<style|<script(?! type=\"module\" src=)| style=| on\w+=", page) == []
    assert re.findall(r"https?:|//\w", page) == []


def test_the_page_preloads_each_of_its_modules() -> None:
    page = (PAGES / "index.html").read_text()
    loaded = re.findall(r'(?:href|src)="box-office/(\w+\.js)"', page)
    assert sorted(loaded) == sorted(file.name for file in PARTS.glob("*.js"))
