"""The artifacts of a stand-in for W&B: versions, aliases, lineage, links and files, as the client of today asks for them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Version:
    """One version of an artifact; ``files`` are by their path in it once its manifest is there."""

    id: str
    collection: Collection
    index: int
    request: dict[str, Any]
    state: str = "PENDING"
    manifest: bytes = b""
    links: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.collection.name

    @property
    def type(self) -> str:
        return self.collection.type

    @property
    def aliases(self) -> set[str]:
        return {alias for alias, version in self.collection.aliases.items() if version is self}

    @property
    def metadata(self) -> dict[str, Any]:
        return json.loads(self.request.get("metadata") or "{}")

    @property
    def description(self) -> str:
        return self.request.get("description") or ""

    @property
    def logged_by(self) -> str | None:
        return self.request.get("runName")


@dataclass
class Collection:
    """The versions of one name, and which of them has each alias."""

    entity: str
    project: str
    name: str
    type: str
    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, Version] = field(default_factory=dict)

    def find(self, alias: str) -> Version | None:
        numbered = {f"v{version.index}": version for version in self.versions}
        return self.aliases.get(alias) or numbered.get(alias)


class ArtifactStore:
    """Answers GraphQL operations on artifacts, and keeps their files.

    Attributes:
        used: run -> the versions that it declared as inputs.
        contents: hexadecimal MD5 -> the content of a file.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.collections: dict[tuple[str, str, str], Collection] = {}
        self.versions: dict[str, Version] = {}
        self.used: dict[str, list[Version]] = {}
        self.contents: dict[str, bytes] = {}

    def all(self, type: str) -> list[Version]:
        """The versions of a type, in the order in which they came."""
        return [version for version in self.versions.values() if version.type == type]

    def add(self, name: str, type: str, files: dict[str, bytes], *aliases: str, **metadata: Any) -> Version:
        """A version that somebody has logged to the project ``bestiary``."""
        digests = {path: base64.b64encode(hashlib.md5(content).digest()).decode() for path, content in files.items()}
        request = {
            "entityName": "someone", "projectName": "bestiary", "artifactCollectionName": name, "artifactTypeName": type,
            "digest": hashlib.md5(json.dumps(digests).encode()).hexdigest(), "metadata": json.dumps(metadata),
            "aliases": [{"alias": alias} for alias in (*aliases, "latest")],
        }  # fmt: skip
        self._CreateArtifact({"input": request})
        version = self.collections["someone", "bestiary", name].versions[-1]
        version.state = "COMMITTED"
        contents = {path: {"digest": digests[path], "size": len(content)} for path, content in files.items()}
        layout = {"storagePolicy": "wandb-storage-policy-v1", "storagePolicyConfig": {"storageLayout": "V2"}}
        version.manifest = json.dumps({"version": 1, **layout, "contents": contents}).encode()
        self.contents |= {base64.b64decode(digests[path]).hex(): content for path, content in files.items()}
        return version

    # ------------------------------------------------------------------ files

    def put(self, path: str, body: bytes) -> None:
        kind, _, name = path.strip("/").partition("/")
        if kind == "manifest":
            self.versions[name].manifest = body
        else:
            assert hashlib.md5(body).hexdigest() == name, "a file is not what was announced"
            self.contents[name] = body

    def get(self, path: str) -> bytes | None:
        parts = path.strip("/").split("/")
        if parts[0] == "manifest":
            return self.versions[parts[1]].manifest
        return self.contents.get(parts[-2]) if parts[0] == "artifactsV2" else None

    # ------------------------------------------------------------------ operations

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The data for an operation; None for one that is about something else."""
        work = getattr(self, f"_{operation}", None)
        return work(variables) if work else None

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        request = variables["input"]
        key = (request["entityName"] or "someone", request["projectName"], request["artifactCollectionName"])
        collection = self.collections.setdefault(key, Collection(*key, request["artifactTypeName"]))
        assert collection.type == request["artifactTypeName"]
        latest = collection.versions[-1] if collection.versions else None
        version = next((each for each in collection.versions if each.request["digest"] == request["digest"]), None)
        if version is None:
            identity = base64.b64encode(f"Artifact:{len(self.versions)}".encode()).decode()
            version = Version(identity, collection, len(collection.versions), request)
            collection.versions.append(version)
            self.versions[identity] = version
        for alias in request.get("aliases") or ():
            collection.aliases[alias["alias"]] = version
        sequence = {"latestArtifact": {"id": latest.id} if latest else None}
        return {"createArtifact": {"artifact": {"id": version.id, "state": version.state, "artifactSequence": sequence}}}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        version = self.versions[variables["artifactID"]]
        file = {"id": "file", "uploadUrl": f"{self.url}/manifest/{version.id}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest of {version.id}", "file": file}}}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for each in variables["input"]["artifactFiles"]:
            digest = base64.b64decode(each["md5"]).hex()
            upload = None if digest in self.contents else f"{self.url}/file/{digest}"
            node = {"storagePath": each["name"], "uploadUrl": upload, "uploadHeaders": [], "uploadMultipartUrls": None}
            nodes.append({"node": {**node, "artifact": {"id": each["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        version = self.versions[variables["artifactID"]]
        version.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": version.id, "digest": version.request["digest"]}}}

    def _UseArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        request = variables.get("input", variables)
        version = self.versions[request["artifactID"]]
        self.used.setdefault(request["runName"], []).append(version)
        return {"useArtifact": {"artifact": {"id": version.id}}}

    def _LinkArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        request = variables["input"]
        version = self.versions[request["artifactID"]]
        key = (request["entityName"], request["projectName"], request["artifactPortfolioName"])
        linked = self.collections.setdefault(key, Collection(*key, version.type))
        linked.versions.append(version)
        linked.aliases["latest"] = version
        version.links.append("/".join(key))
        return {"result": {"versionIndex": len(linked.versions) - 1, "artifactMembership": self._membership(linked, version)}}

    def _ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        version = self._find(variables)
        return {"project": {"artifact": {"artifactType": {"name": version.type}} if version else None}}

    def _ArtifactByID(self, variables: dict[str, Any]) -> dict[str, Any]:
        version = self.versions.get(variables["id"])
        return {"artifact": self._describe(version) if version else None}

    def _ArtifactMembershipByName(self, variables: dict[str, Any]) -> dict[str, Any]:
        if not any(key[:2] == (variables["entity"], variables["project"]) for key in self.collections):
            return {"project": None}
        version = self._find(variables)
        collection = self.collections[self._key(variables)] if version else None
        return {"project": {"artifactCollectionMembership": self._membership(collection, version) if version else None}}

    def _FetchArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"artifact": {"currentManifest": {"file": {"directUrl": f"{self.url}/manifest/{variables['id']}"}}}}

    def _ArtifactTypeArtifactCollections(self, variables: dict[str, Any]) -> dict[str, Any]:
        place = (variables["entity"], variables["project"], variables["type"])
        found = [each for each in self.collections.values() if (each.entity, each.project, each.type) == place]
        more = {"totalCount": len(found), "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {
            "project": {"artifactType": {"artifactCollections": {**more, "edges": [{"node": _long(each)} for each in found]}}}
        }

    def _ArtifactCollectionAliases(self, variables: dict[str, Any]) -> dict[str, Any]:
        collection = next(each for each in self.collections.values() if each.name == variables["id"])
        nodes = [{"node": {"__typename": "ArtifactAlias", "id": alias, "alias": alias}} for alias in collection.aliases]
        listed = {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": nodes}
        return {"artifactCollection": {"__typename": "ArtifactSequence", "aliases": listed}}

    def _FetchOrgInfoFromEntity(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"name": "zoological", "orgEntity": {"name": "zoological-org"}}, "user": None}}

    # ------------------------------------------------------------------ in GraphQL's words

    def _key(self, variables: dict[str, Any]) -> tuple[str, str, str]:
        return variables["entity"] or "someone", variables["project"], variables["name"].partition(":")[0]

    def _find(self, variables: dict[str, Any]) -> Version | None:
        collection = self.collections.get(self._key(variables))
        return collection.find(variables["name"].partition(":")[2] or "latest") if collection else None

    def _membership(self, collection: Collection, version: Version) -> dict[str, Any]:
        aliases = [alias for alias, each in collection.aliases.items() if each is version]
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership of {version.id}",
            "versionIndex": collection.versions.index(version),
            "createdAt": "2026-01-01T00:00:00Z",
            "aliases": [{"__typename": "ArtifactAlias", "id": alias, "alias": alias} for alias in aliases],
            "artifactCollection": _short(collection, "ArtifactPortfolio" if version.collection is not collection else ""),
            "artifact": self._describe(version),
        }

    def _describe(self, version: Version) -> dict[str, Any]:
        contents = json.loads(version.manifest or "{}").get("contents", {})
        unset = ("ttlIsInherited", "historyStep", "commitHash", "updatedAt")
        return {
            "__typename": "Artifact",
            "id": version.id,
            "artifactSequence": _short(version.collection),
            "versionIndex": version.index,
            "artifactType": {"name": version.type},
            "description": version.description,
            "metadata": version.request.get("metadata"),
            "tags": [],
            "state": version.state,
            "size": sum(each.get("size", 0) for each in contents.values()),
            "digest": version.request["digest"],
            "digestAlgorithm": "MANIFEST_MD5",
            "fileCount": len(contents),
            "createdAt": "2026-01-01T00:00:00Z",
            **dict.fromkeys(unset),
            "ttlIsInherited": True,
            "ttlDurationSeconds": -2,
            "aliases": [
                {"__typename": "ArtifactAlias", "id": alias, "alias": alias, "artifactCollection": _short(version.collection)}
                for alias in version.aliases
            ],
        }


def _short(collection: Collection, kind: str = "") -> dict[str, Any]:
    project = {"id": "p", "internalId": "p", "name": collection.project, "entity": {"name": collection.entity}}
    return {"__typename": kind or "ArtifactSequence", "name": collection.name, "project": project}


def _long(collection: Collection) -> dict[str, Any]:
    dates = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": None}
    rest = {"id": collection.name, "description": None, "type": {"name": collection.type}, "tags": {"edges": []}}
    return {**_short(collection), **dates, **rest}
