"""What the server answers: predictions, timelines, models, health and metrics."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

import serkit
from serkit.inference.cuts import TimelineOptions
from serkit.serving.answers import Health, ModelList, PredictionAnswer, TimelineAnswer, errors
from serkit.serving.metrics import MEDIA_TYPE
from serkit.serving.options import NoOptions, PredictOptions, TimelineQuery, once
from serkit.serving.server import Server, describe, thresholds
from serkit.serving.uploads import receive

router = APIRouter(dependencies=[Depends(once)])

KEY = "unauthorized"
UPLOAD = (
    "bad_audio", "bad_option", "unsupported", "too_large", "too_long", KEY, "busy", "timed_out", "shutting_down",
)  # fmt: skip
FILE = {"type": "string", "contentMediaType": "application/octet-stream", "description": "the recording"}
TURNS = {"type": "string", "contentMediaType": "text/plain", "description": "who speaks when: RTTM, CSV or TSV"}


def body(**more: Any) -> dict[str, Any]:
    """Return the OpenAPI entry of a body: a form with the field ``file`` and ``more``, or the recording itself."""
    form = {"type": "object", "required": ["file"], "properties": {"file": FILE, **more}, "additionalProperties": False}
    text = "a form, or the recording as it is; audio/* and video/* are taken as well"
    content = {"multipart/form-data": {"schema": form}, "application/octet-stream": {"schema": {}}}
    return {"requestBody": {"required": True, "description": text, "content": content}}


@router.post(
    "/v1/predict",
    summary="What is expressed in a recording",
    response_class=Response,
    responses={200: {"model": PredictionAnswer}, **errors(*UPLOAD)},
    openapi_extra=body(),
)
async def predict(request: Request, options: Annotated[PredictOptions, Query()]) -> Response:
    """Judge one recording in any format, as ``serkit predict`` does."""
    server: Server = request.app.state.server
    with server.place() as place:
        predictor, _ = server.predictor(options.model, place)
        upload = await receive(request, place, server.settings)

        def work() -> bytes:
            with upload:
                found = predictor.predict(
                    upload.recording.source,
                    labels=options.names,
                    embedding=options.embedding,
                    segment=options.segment,
                    id=upload.recording.name,
                )
            return write({**found.as_dict(), "thresholds": thresholds(predictor)})

        return Response(await server.work(request, place, work), media_type="application/json")


@router.post(
    "/v1/timeline",
    summary="What is expressed when",
    response_class=Response,
    responses={200: {"model": TimelineAnswer}, **errors(*UPLOAD)},
    openapi_extra=body(turns=TURNS),
)
async def timeline(request: Request, options: Annotated[TimelineQuery, Query()]) -> Response:
    """Follow the emotion expressed in a recording of any length, as ``serkit timeline`` does."""
    server: Server = request.app.state.server
    with server.place() as place:
        predictor, decoder = server.predictor(options.model, place, options.peaks)
        chosen = TimelineOptions(options.window, options.hop, options.speech)
        upload = await receive(request, place, server.settings, {"turns"})

        def work() -> bytes:
            with upload:
                found = predictor.timeline(
                    upload.recording.source,
                    options=chosen,
                    turns=upload.turns(),
                    labels=options.names,
                    id=upload.recording.name,
                    workers=len(server.engine.threads),
                )
            answer = {**found.as_dict(curve=options.curve), "thresholds": thresholds(predictor)}
            if decoder.outline is not None:
                answer["peaks"] = [round(float(peak), 4) for peak in decoder.outline.peaks()]
            return write(answer)

        return Response(await server.work(request, place, work), media_type="application/json")


def write(answer: dict[str, Any]) -> bytes:
    """Return an answer as JSON."""
    return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@router.get(
    "/v1/models",
    summary="The models of this server",
    response_model=ModelList,
    responses=errors("bad_option", KEY, "shutting_down"),
)
async def models(request: Request, options: Annotated[NoOptions, Query()]) -> dict[str, Any]:
    """Tell every model's classes, times, training data, licence and intended use, and what a recording may have."""
    server: Server = request.app.state.server
    limits = {"max_bytes": server.settings.max_bytes, "max_seconds": server.settings.max_seconds}
    return {"models": [describe(name, each) for name, each in server.models.items()], "limits": limits}


@router.get(
    "/health", summary="Whether the server takes requests", responses={200: {"model": Health}, 503: {"model": Health}}
)
async def health(request: Request) -> Response:
    """Answer 200, or 503 once the server is about to stop."""
    server: Server = request.app.state.server
    status = "shutting_down" if server.closing else "ok"
    told = {"status": status, "version": serkit.__version__, "models": list(server.models)}
    return Response(write(told), 503 if server.closing else 200, media_type="application/json")


@router.get(
    "/metrics",
    summary="Counts for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors(KEY)},
)
async def metrics(request: Request) -> Response:
    """Tell requests, latencies, seconds of audio, windows judged, and what is under way, over all workers."""
    server: Server = request.app.state.server
    return Response(server.metrics.text(), media_type=MEDIA_TYPE)
