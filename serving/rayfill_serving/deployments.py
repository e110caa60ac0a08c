"""The two Ray Serve deployments: model replicas, and the ingress that talks HTTP."""

from __future__ import annotations

import logging
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from rayfill_data.extension import allow_modules
from rayfill_serving.api import create_app
from rayfill_serving.models import ModelShelf
from rayfill_serving.options import ServingOptions
from rayfill_serving.problems import Problem, problem
from rayfill_serving.schemas import InpaintJob, InpaintReply, ModelInfo, SegmentJob, SegmentReply
from rayfill_serving.service import InpaintService
from rayfill_serving.sources import ReferenceSource

#: Far above what the gates let in, so that refusals are ours: JSON, with Retry-After.
_INGRESS_REQUESTS = 10_000
_HEALTH_PERIOD_S = 2.0
#: Parts of a hole whose searches for patches fit into the time a request has.
_SEARCHES = 4


class InpaintReplica:
    """One copy of the models in a process of its own."""

    def __init__(self, options: ServingOptions) -> None:
        _log_with_serve()
        allow_modules(options.allow_modules)
        source = ReferenceSource(
            references=options.references,
            tracking_uri=options.tracking_uri,
            cache_dir=options.cache_dir,
            device="cuda" if options.gpus > 0 else "cpu",
            finish=options.finish,
        )
        shelf = ModelShelf(
            list(options.references),
            source=source,
            poll_s=options.poll_s,
            segment_side=options.segment_side,
            awaited=options.awaited,
        )
        shelf.follow()
        self._service = InpaintService(
            shelf,
            threads=options.threads,
            waiting=options.waiting,
            max_pixels=options.max_pixels,
            search_s=options.timeout_s / _SEARCHES,
        )

    async def inpaint(self, job: InpaintJob) -> InpaintReply | Problem:
        """Fill the hole, or say why not."""
        return await self._service.inpaint(job)

    async def segment(self, job: SegmentJob) -> SegmentReply | Problem:
        """Find what was clicked on, or say why not."""
        return await self._service.segment(job)

    async def models(self) -> list[ModelInfo]:
        """Return what is being served now."""
        return await self._service.models()


class ReplicaBackend:
    """The backend behind a Serve handle; one retry when a replica dies and another is there."""

    def __init__(self, replicas: DeploymentHandle, *, retry: bool) -> None:
        self._replicas = replicas
        self._attempts = 2 if retry else 1

    async def inpaint(self, job: InpaintJob) -> InpaintReply | Problem:
        """Fill the hole, or say why not."""
        return cast("InpaintReply | Problem", await self._ask(self._replicas.inpaint, job))

    async def segment(self, job: SegmentJob) -> SegmentReply | Problem:
        """Find what was clicked on, or say why not."""
        return cast("SegmentReply | Problem", await self._ask(self._replicas.segment, job))

    async def models(self) -> list[ModelInfo]:
        """Return what is being served now; nothing while no replica answers."""
        try:
            return cast("list[ModelInfo]", await self._replicas.models.remote())
        except (RayError, RayServeException):
            return []

    async def _ask(self, method: DeploymentHandle, job: InpaintJob | SegmentJob) -> Any:
        for _ in range(self._attempts):
            try:
                return await method.remote(job)
            except RayActorError:
                continue
        return problem("worker_lost")


class Ingress:
    """The HTTP side; holds no model, so it stays small and starts fast."""

    def __init__(self, replicas: DeploymentHandle, options: ServingOptions) -> None:
        _log_with_serve()
        self._backend = ReplicaBackend(replicas, retry=options.replicas > 1)
        self._options = options

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: N807 - the name Ray Serve calls
        """Return the ASGI app, once the constructor has run in the replica."""
        return create_app(self._backend, self._options)


def _log_with_serve() -> None:
    """Send our lines to the replica's log file; by default Ray leaves them in a worker's stderr."""
    ours = logging.getLogger("rayfill_serving")
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for handler in logging.getLogger("ray.serve").handlers:
        ours.addHandler(handler)


def deploy(options: ServingOptions) -> serve.Application:
    """Return the Serve application for ``options``, not yet running."""
    replica = serve.deployment(
        InpaintReplica,
        num_replicas=options.replicas,
        max_ongoing_requests=options.threads + options.waiting,
        health_check_period_s=_HEALTH_PERIOD_S,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        max_ongoing_requests=_INGRESS_REQUESTS,
        health_check_period_s=_HEALTH_PERIOD_S,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(replica.bind(options), options)
