"""The OpenAPI document is complete, and what the server does is what it says: checked by schemathesis."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

schemathesis = pytest.importorskip("schemathesis")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import CHECKS, load_all_checks  # noqa: E402

load_all_checks()
WITHOUT = {
    "positive_data_acceptance",  # bytes of any kind fit the document and are no recording
    "ignored_auth",  # tested where there are keys
}
ACTIVE = [check for check in CHECKS.get_all() if check.__name__ not in WITHOUT]


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def schema(serve_here):
    with serve_here() as ((host, port), _):
        yield schemathesis.openapi.from_url(f"http://{host}:{port}/openapi.json")


ROUTES = [
    ("/v1/predict", "POST"),
    ("/v1/timeline", "POST"),
    ("/v1/models", "GET"),
    ("/health", "GET"),
    ("/metrics", "GET"),
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_answers_are_as_documented(schema, path, method, mode):
    found = set()

    @settings(max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def check(case):
        found.add(case.call_and_validate(checks=ACTIVE).status_code)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE and method == "GET"  # nothing can be wrong in what takes nothing
        return
    assert found <= ({422, 415} if method == "POST" else {200, 405, 422})


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/timeline"])
def test_options_are_as_documented(schema, clip, path, mode):
    """With a body that is a recording, documented options are taken and others are not."""
    found = set()

    @settings(max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def check(case):
        case.body, case.media_type = clip, "application/octet-stream"
        response = case.call()
        assert response.status_code in (200, 422)
        if response.status_code == 422:
            assert response.json()["error"]["code"] == "bad_option"
        found.add(response.status_code)

    check()
    assert found == {200, 422}


def test_the_document_names_every_route_and_problem(document):
    assert set(document["paths"]) == {"/v1/predict", "/v1/timeline", "/v1/models", "/health", "/metrics"}
    for path in ("/v1/predict", "/v1/timeline"):
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/octet-stream"}
        assert set(operation["responses"]) == {"200", "401", "413", "415", "422", "429", "503"}
        assert operation["responses"]["413"]["description"] == "too_large, too_long"
        assert "Retry-After" in operation["responses"]["429"]["headers"]
    timeline = document["paths"]["/v1/timeline"]["post"]
    assert {each["name"]: each["schema"].get("type") for each in timeline["parameters"]} == {
        "labels": "string",
        "model": "string",
        "speech": "boolean",
        "window": "number",
        "hop": "number",
        "curve": "boolean",
        "peaks": "integer",
    }
    form = timeline["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"file", "turns"}
