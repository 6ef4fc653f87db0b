"""Answers and checks for the routes behind FastAPI."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from fastapi import Request
from fastapi.responses import Response

from gateway.api.auth import allow
from gateway.api.frame import PROBLEM_TYPE, check_parameters
from gateway.api.port import FlowPort
from gateway.api.problems import Problem, ProblemError, build_body
from sms.config import ApiKey


def json_response(value: object, status: int = 200) -> Response:
    """Plain values as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def problem_response(request: Request, problem: Problem) -> Response:
    """A problem document."""
    body = build_body(problem, request.state.request_id)
    response = Response(body, problem.status, media_type=PROBLEM_TYPE[1].decode())
    for name, value in problem.headers:
        response.headers[name.decode()] = value.decode()
    return response


def not_found() -> ProblemError:
    """One answer for what is not there and for what belongs to somebody else."""
    return ProblemError(Problem("resource.not_found", "There is nothing here for this key."))


def caller(request: Request, flow: FlowPort, scope: str, *, only_stops: bool = False) -> ApiKey:
    """The key of the request, once it may do what `scope` names (`auth.allow`); raises the 403."""
    key: ApiKey = request.state.key
    problem = allow(key, scope, flow.snapshot, only_stops=only_stops)
    if problem is not None:
        raise ProblemError(problem)
    return key


def check_query(request: Request, known: Collection[str] = ()) -> None:
    """Raise the 422 for parameters that are unknown or repeated."""
    check_parameters([name for name, _ in request.query_params.multi_items()], known)
