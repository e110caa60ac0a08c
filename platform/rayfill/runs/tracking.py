"""Recording runs in MLflow so that an outage neither stops nor thins a training run.

Every event is first appended to a journal on disk and only then sent, by a background thread, in
order. What MLflow does not take stays in the journal and is sent by the next process that opens the
same folder, or by :func:`replay`. Metrics carry the time they were recorded at, so that sending one
twice leaves one point.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rayfill.runs.journal import Journal, recorded_run
from rayfill.runs.mlflow_store import open_store, sqlite_file, unless_there
from rayfill_data.errors import redact_uri

logger = logging.getLogger(__name__)

_BACKOFF_S = 10.0
_MAX_PARAM_CHARS = 500
_MAX_DIGEST_CHARS = 36
_PREVIEW_PX = 1024
_EXPERIMENT = "{experiment_id}"


class Tracker:
    """One MLflow run, written through a journal; no method ever raises because of MLflow."""

    def __init__(self, folder: Path, *, tracking_uri: str, run_id: str | None = None) -> None:
        """Open or continue the run whose journal lies in ``folder``.

        Args:
            folder: Local folder of the journal; the same folder continues the same run.
            tracking_uri: Absolute MLflow tracking URI.
            run_id: The run to continue when the journal is not on this machine.
        """
        self._journal = Journal(folder)
        if run_id and not self._journal.run_id:
            self._journal.remember_run(run_id)
        self._uri = tracking_uri
        self._wake = threading.Condition()
        self._closing = False
        self._retry_now = False
        self._problem = ""
        self._thread = threading.Thread(target=self._pump, name="mlflow-sender", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str:
        """The MLflow run id, or an empty string while MLflow has not answered yet."""
        return self._journal.run_id

    @property
    def folder(self) -> Path:
        """The folder of the journal."""
        return self._journal.folder

    def start(
        self,
        name: str,
        *,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str = "",
    ) -> bool:
        """Create the run, once, and return whether it is new: a continued run keeps its own.

        ``parent`` is the parent's run id, or the folder of the parent's journal while that run has
        none yet.
        """
        if self._journal.started or self._journal.run_id:
            return False
        self._record(
            "start",
            name=name,
            experiment=experiment,
            params={key: str(value)[:_MAX_PARAM_CHARS] for key, value in params.items()},
            tags=dict(tags),
            parent=parent,
        )
        return True

    def dataset(self, name: str, *, digest: str, uri: str, profile: Mapping[str, Any]) -> None:
        """Record what the run is trained on, as an input that MLflow lists and filters by.

        Args:
            name: What people call it.
            digest: Hash of its content; MLflow keeps the first 36 characters.
            uri: Where it lies.
            profile: Facts about it, such as how many samples a split has.
        """
        self._record("dataset", name=name, digest=digest, uri=uri, profile=dict(profile))

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Record metrics at a step; a (metric, step) that is already recorded is left as it is."""
        new = {k: float(v) for k, v in values.items() if not self._journal.has_metric(k, step)}
        if new:
            self._record("metrics", values=new, step=step)

    def picture(self, key: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Record an 8-bit RGB picture ``(H, W, 3)`` under a key at a step."""
        file = self._journal.new_file(".png")
        Image.fromarray(image).save(file)
        self._record("picture", key=key, file=file.name, step=step)

    def text(self, content: str, artifact: str) -> None:
        """Record a text artifact, such as ``leaderboard.md``."""
        self._record("text", content=content, artifact=artifact)

    def view(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep a view of the experiment's table: its page with ``viewStateShareKey=KEY`` opens it.

        Args:
            key: Name of the view.
            state: Filter, order and columns, as MLflow's own "Share" writes them.
        """
        self._record("view", key=key, state=dict(state))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; ``{experiment_id}`` in one becomes the id, which a link to a page needs."""
        self._record("tags", values=dict(values))

    def status(self, status: str) -> None:
        """Correct how the run ended, leaving when it did."""
        self._record("status", status=status)

    def finish(self, status: str = "FINISHED", *, patience_s: float = 15.0) -> int:
        """End the run, wait for the sender, and return how many events are still unsent."""
        self._record("finish", status=status)
        return self.close(patience_s=patience_s)

    def close(self, *, patience_s: float = 15.0) -> int:
        """Wait up to ``patience_s`` for the sender and return how many events are still unsent."""
        # In an outage that is already known, a run that ends must not wait for another time-out.
        self.flush(patience_s=min(patience_s, 1.0) if self._problem else patience_s)
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout=1.0)
        unsent = self._journal.unsent_count
        self._journal.close()
        if unsent:
            logger.warning(
                "%d events are not in MLflow yet (%s); `rayfill replay` sends them from %s",
                unsent,
                self._problem or "it was too slow",
                self._journal.folder,
            )
        return unsent

    def flush(self, *, patience_s: float = 15.0) -> bool:
        """Wait until all is sent, or one more attempt failed; return whether all is sent."""
        deadline = time.monotonic() + patience_s
        with self._wake:
            self._retry_now = True
            self._problem = ""
            self._wake.notify_all()
            while self._journal.unsent_count and not self._problem:
                left = deadline - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    break
                self._wake.wait(left)
        return self._journal.unsent_count == 0

    def _record(self, kind: str, **fields: Any) -> None:
        with self._wake:
            self._journal.append(kind, **fields)
            self._wake.notify_all()

    def _pump(self) -> None:
        sender = Sender(self._journal, tracking_uri=self._uri)
        while True:
            with self._wake:
                while not self._journal.unsent_count and not self._closing:
                    self._wake.wait()
                if self._closing:
                    return
                event = self._journal.next_unsent()
            try:
                sender.send(event)
            except Exception as error:  # noqa: BLE001  (an outage must never reach training)
                self._pause(error)
            else:
                with self._wake:
                    self._journal.mark_sent(event)
                    self._wake.notify_all()

    def _pause(self, error: Exception) -> None:
        with self._wake:
            self._problem = redact_uri(f"{type(error).__name__}: {error}")
            self._retry_now = False
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._closing or self._retry_now, timeout=_BACKOFF_S)


class Sender:
    """Sends journalled events to MLflow, in order."""

    def __init__(self, journal: Journal, *, tracking_uri: str) -> None:
        self._journal = journal
        self._uri = tracking_uri
        self._client: Any = None

    def send(self, event: Mapping[str, Any]) -> None:
        """Send one event; raises whatever MLflow raises."""
        if self._client is None:
            self._client = open_store(self._uri)
        getattr(self, f"_send_{event['kind']}")(event)

    def _send_start(self, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        if not self._journal.run_id:  # a second attempt must not create a second run
            experiment_id = ensure_experiment(event["experiment"], tracking_uri=self._uri)
            tags = dict(event["tags"]) | {"mlflow.runName": event["name"]}
            if event["parent"]:
                tags["mlflow.parentRunId"] = _parent_run_id(event["parent"])
            run = self._client.create_run(experiment_id, start_time=event["time_ms"], tags=tags)
            self._journal.remember_run(run.info.run_id)
        params = [Param(key, value) for key, value in event["params"].items()]
        self._client.log_batch(self._journal.run_id, params=params)

    def _send_metrics(self, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        points = [Metric(k, v, event["time_ms"], event["step"]) for k, v in event["values"].items()]
        self._client.log_batch(self._journal.run_id, metrics=points)

    def _send_dataset(self, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        scheme, found, _ = event["uri"].partition("://")
        dataset = Dataset(
            name=event["name"],
            digest=event["digest"][:_MAX_DIGEST_CHARS],
            source_type=scheme if found else "local",
            source=json.dumps({"uri": event["uri"]}),
            profile=json.dumps(event["profile"]),
        )
        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(self._journal.run_id, datasets=[DatasetInput(dataset, [context])])

    def _send_picture(self, event: Mapping[str, Any]) -> None:
        """Write the files that ``log_image`` would, with a preview that is not 256 pixels small.

        MLflow's pages show the preview, and never enlarge it. The names hold nothing of the moment
        of sending, so that sending twice leaves one picture.
        """
        file = self._journal.file(event["file"])
        key = re.sub(r"[^a-zA-Z0-9_\-. ~]", "_", event["key"].replace("/", "~"))
        name = f"{key}+step+{event['step']}+timestamp+{event['time_ms']}+{uuid.UUID(file.stem)}"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(file, Path(folder, f"{name}.png"))
            with Image.open(file) as picture:
                picture.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
                picture.save(Path(folder, f"{name}+compressed.webp"), quality=90)
            self._client.log_artifacts(self._journal.run_id, folder, "images")
        self._client.set_tag(self._journal.run_id, "mlflow.loggedImages", "True")
        file.unlink()

    def _send_text(self, event: Mapping[str, Any]) -> None:
        self._client.log_text(self._journal.run_id, event["content"], event["artifact"])

    def _send_tags(self, event: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        values = event["values"]
        if any(_EXPERIMENT in value for value in values.values()):
            number = self._experiment_id()
            values = {key: value.replace(_EXPERIMENT, number) for key, value in values.items()}
        tags = [RunTag(key, value) for key, value in values.items()]
        self._client.log_batch(self._journal.run_id, tags=tags)

    def _send_view(self, event: Mapping[str, Any]) -> None:
        tag = f"mlflow.sharedViewState.{event['key']}"
        self._client.set_experiment_tag(self._experiment_id(), tag, json.dumps(event["state"]))

    def _experiment_id(self) -> str:
        return str(self._client.get_run(self._journal.run_id).info.experiment_id)

    def _send_status(self, event: Mapping[str, Any]) -> None:
        self._client.update_run(self._journal.run_id, status=event["status"])

    def _send_finish(self, event: Mapping[str, Any]) -> None:
        self._client.set_terminated(self._journal.run_id, event["status"], event["time_ms"])


def ensure_experiment(name: str, *, tracking_uri: str) -> str:
    """Return the id of an experiment, creating it (and a local database) where needed.

    The driver calls this before any worker starts: several processes creating one SQLite database
    at the same time break it.
    """
    file = sqlite_file(tracking_uri)
    artifacts = (file.parent / "artifacts").absolute().as_uri() if file else None
    client = open_store(tracking_uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        # The kind opens the UI on training runs rather than on language-model traces.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        with unless_there():  # another process may be first
            return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
        found = client.get_experiment_by_name(name)
        assert found is not None
    return str(found.experiment_id)


def replay(folder: Path, *, tracking_uri: str) -> int:
    """Send what an earlier process could not, and return how many events are still unsent."""
    journal = Journal(folder)
    sender = Sender(journal, tracking_uri=tracking_uri)
    try:
        while journal.unsent_count:
            event = journal.next_unsent()
            sender.send(event)
            journal.mark_sent(event)
    except Exception:  # noqa: BLE001  (the count says what is left)
        return journal.unsent_count
    finally:
        journal.close()
    return 0


def _parent_run_id(parent: str) -> str:
    if os.sep not in parent:
        return parent
    run_id = recorded_run(Path(parent))
    if not run_id:
        raise LookupError("the parent run is not recorded yet")
    return run_id


def describe_unsent(folders: Mapping[Path, int]) -> str:
    """Return one line that lists what MLflow has not got yet and how to send it."""
    listed = ", ".join(f"{count} in {folder}" for folder, count in folders.items())
    return (
        f"MLflow has not taken {sum(folders.values())} events ({listed}); nothing is lost: "
        "send them with `rayfill replay` once it is reachable."
    )
