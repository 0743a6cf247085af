"""A stand-in for the service of Weights & Biases on this machine: as much of it as runs need."""

from __future__ import annotations

import gzip
import json
import re
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.wandb_artifact_store import ArtifactStore

FEATURES = ("ARTIFACT_DIGEST_ALGORITHM", "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE")


class WandbService:
    """As much of a W&B server as a run needs; ``hangs`` says which requests (parts of path or query) it never answers.

    It keeps the history of one run, which may be resumed, its alerts, and artifacts of any number of runs.
    """

    def __init__(self) -> None:
        self.hangs: tuple[str, ...] = ()
        self.is_broken = False  # answers 500
        self.requests: list[str] = []
        self.lines: dict[str, list[str]] = {}  # of the files of the one run
        self.alerts: list[dict[str, Any]] = []
        self.faults: list[str] = []  # requests that it could not answer
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.reply(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)

            do_PUT = do_POST

            def reply(self, body: bytes) -> None:
                request = f"{self.path} {body.decode('latin1')}"
                outer.requests.append(request)
                if any(part in request for part in outer.hangs):
                    outer.released.wait()
                    self.close_connection = True
                    return
                if outer.is_broken:
                    self.send_error(500)
                    return
                try:
                    answer = outer.answer(self.path, body)
                except Exception:
                    outer.faults.append(f"{request[:500]}\n{traceback.format_exc()}")
                    raise
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.artifacts = ArtifactStore(self.url)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, path: str, body: bytes) -> bytes:
        if path == "/graphql":
            return json.dumps(self.graphql(json.loads(body))).encode()
        if path.startswith(("/manifest/", "/file/")) and body:
            self.artifacts.put(path, body)
        if "/file_stream" in path:
            self.keep(json.loads(body))
        return self.artifacts.get(path) or b"{}"

    def keep(self, sent: dict[str, Any]) -> None:
        """Put lines of the run's files where they belong: a resumed run sends those after what is there."""
        for name, part in (sent.get("files") or {}).items():
            at = part["offset"]
            self.lines.setdefault(name, [])[at : at + len(part["content"])] = part["content"]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", ())]

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        operation = re.search(r"(?:query|mutation) (\w+)", query)
        if operation and (data := self.artifacts.answer(operation[1], variables)):
            return {"data": data}
        project = {"id": "p", "name": "bestiary", "entity": {"id": "e", "name": "someone"}}
        if "query RunResumeStatus" in query and self.lines:
            lines = self.lines["wandb-history.jsonl"]
            counts = {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
            tails = {"historyTail": json.dumps(lines[-1:]), "eventsTail": "[]"}
            kept = {"config": "{}", "summaryMetrics": "{}", "wandbConfig": "{}", "tags": [], "displayName": "mlp-digits"}
            return {"data": {"model": {**project, "bucket": {"id": "b", "name": variables["name"], **counts, **tails, **kept}}}}
        if "upsertBucket" in query:
            lines = len(self.lines.get("wandb-history.jsonl", ()))
            names = {"name": variables["name"], "displayName": variables["displayName"]}
            bucket = {"id": "b", **names, "project": project, "historyLineCount": lines}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": not self.lines}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if "notifyScriptableRunAlert" in query:
            self.alerts.append(variables)
            return {"data": {"notifyScriptableRunAlert": {"success": True}}}
        viewer = {"id": "someone", "entity": "someone", "username": "someone"}
        features = [{"name": name, "isEnabled": True} for name in FEATURES]
        return {"data": {"model": None, "viewer": viewer, "serverInfo": {"features": features}, "entity": None}}

    def stop(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
        assert not self.faults, "\n".join(self.faults)
