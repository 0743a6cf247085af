"""The part of the service of Weights & Biases that runs sweeps: it gives trials to agents one by one, and stops bad ones."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests.wandb_service import WandbService


class WandbSweepService(WandbService):
    """A service with one sweep.

    Attributes:
        config: of the sweep, as ``wandb sweep`` sent it.
        runs: run id -> what was last sent of it: ``groupName``, ``jobType``, ``displayName``, ``config`` and so on.
        stopped: runs that the agent was told to stop.
    """

    def __init__(self, trials: list[dict[str, Any]], stop_after: dict[int, int] | None = None) -> None:
        """
        Args:
            trials: what is sampled for each.
            stop_after: trial -> number of values of the metric after which it is stopped, as by Hyperband.
        """
        self.trials, self.stop_after = trials, stop_after or {}
        self.config: dict[str, Any] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.given = 0
        super().__init__()

    def history_of(self, run: str) -> list[dict[str, Any]]:
        """The rows that a run has logged, in order."""
        rows = []
        for request in list(self.requests):
            path, _, body = request.partition(" ")
            if path.endswith(f"/{run}/file_stream"):
                lines = (json.loads(body).get("files") or {}).get("wandb-history.jsonl", {}).get("content", ())
                rows += [json.loads(line) for line in lines]
        return rows

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        if query.lstrip().startswith("query Viewer"):
            user = dict.fromkeys(("id", "username", "entity", "email", "name"), "someone")
            return {"data": {"viewer": {**user, "teams": {"edges": []}}}}
        if "upsertSweep" in query:
            self.config = yaml.safe_load(variables["config"])
            project = {"id": "p", "name": variables["projectName"], "entity": {"id": "e", "name": "someone"}}
            return {"data": {"upsertSweep": {"sweep": {"name": "swept", "project": project}, "configValidationWarnings": []}}}
        if "query SweepWithRuns" in query:
            return {"data": {"project": {"sweep": {"id": "s", "config": yaml.safe_dump(self.config), "runs": {"edges": []}}}}}
        if "createAgent" in query:
            return {"data": {"createAgent": {"agent": {"id": "a"}}}}
        if "agentHeartbeat" in query:
            commands = json.dumps(self.commands(json.loads(variables["runState"])))
            return {"data": {"agentHeartbeat": {"agent": {"id": "a"}, "commands": commands}}}
        if "upsertBucket" in query:
            sent = {key: value for key, value in variables.items() if value is not None}
            self.runs[variables["name"]] = {**self.runs.get(variables["name"], {}), **sent}
        return super().graphql(request)

    def commands(self, running: dict[str, bool]) -> list[dict[str, Any]]:
        """What an agent with these runs is to do next."""
        for run in running:
            values = [row for row in self.history_of(run) if self.config["metric"]["name"] in row]
            if len(values) >= self.stop_after.get(int(run.removeprefix("trial")), 10**9):
                self.stopped.append(run)
                return [{"type": "stop", "run_id": run}]
        if running:
            return []
        if self.given == len(self.trials):
            return [{"type": "exit"}]
        args = {key: {"value": value} for key, value in self.trials[self.given].items()}
        command = {"type": "run", "run_id": f"trial{self.given}", "program": self.config["program"], "args": args}
        self.given += 1
        return [command]
