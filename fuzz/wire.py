"""Over HTTP: files of strangers, and wrong types for every parameter of every endpoint."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.inputs import Checks, kinds
from fuzz.mutations import FEW_ODD

COMPARING = ("compared", "compare", "redrawn")  # seconds each, since each ends with figures
UNSEEN = "Something went wrong"  # what a visitor is told of an error that nobody foresaw
SHORT: dict[str, dict[str, Any]] = {
    "sweep": {"scales": [1]},
    "compare": {"columns_values": "0:1:1", "rows_axis": ""},
}
QUICK = {"steps": 1, "count": 1, "width": 64, "height": 64, "seed": 1}


class Client:
    """A visitor without a browser."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=f"{url}gradio_api/", timeout=300)
        self.config = httpx.get(f"{url}config", timeout=300).json()
        self.values = {c["id"]: c["props"].get("value") for c in self.config["components"]}
        self.labels = {c["id"]: c["props"].get("label") for c in self.config["components"]}
        models = [
            c["props"] for c in self.config["components"] if c["props"].get("label") == "Model"
        ]
        self.model = models[0]["value"]
        self.states = {c["id"] for c in self.config["components"] if c["type"] == "state"}

    def events(self) -> list[dict[str, Any]]:
        """All that a browser can set off, the private ones included."""
        return [one for one in self.config["dependencies"] if one["backend_fn"]]

    def event(self, name: str) -> dict[str, Any]:
        return next(one for one in self.events() if one["api_name"] == name)

    def fields(self, name: str) -> list[str]:
        """Of a public endpoint, in the order of its inputs."""
        info = self.http.get("info").json()["named_endpoints"][f"/{name}"]
        return [parameter["parameter_name"] for parameter in info["parameters"]]

    def upload(self, content: bytes, name: str) -> dict[str, Any]:
        answer = self.http.post("upload", files={"files": (name, content)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def call(self, name: str, **values: Any) -> str:
        """The last message, or the sentence of a refusal."""
        body = json.dumps(values)  # writes NaN, unlike httpx
        return self._answered(self.http.post(f"call/v2/{name}", content=body, headers=JSON))

    def call_event(self, event: Mapping[str, Any], data: list[Any]) -> str:
        """Any event, by its number."""
        if not event["queue"]:
            body = {"fn_index": event["id"], "data": data, "session_hash": "fuzz"}
            answer = self.http.post("run/predict", content=json.dumps(body), headers=JSON)
            return said(answer)
        body = {"fn_index": event["id"], "data": data, "event_data": None}
        name = event["api_name"]
        return self._answered(
            self.http.post(f"call/{name}", content=json.dumps(body), headers=JSON)
        )

    def _answered(self, joined: httpx.Response) -> str:
        if joined.status_code != 200 or "event_id" not in joined.json():
            return said(joined)
        stream = self.http.get(f"call/any/{joined.json()['event_id']}").text
        found = re.findall(r"^event: (\w+)\ndata: (.*)$", stream, re.MULTILINE)
        kind, data = found[-1] if found else ("nothing", "")
        return f"{kind}: {data[:400]}"


JSON = {"Content-Type": "application/json"}


def said(answer: httpx.Response) -> str:
    """A status and the beginning of what came with it."""
    kind = "complete" if answer.status_code == 200 else f"refused {answer.status_code}"
    return f"{kind}: {answer.text[:400]}"


class Told:
    """What was answered, and what should not have been."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.failures: dict[str, str] = {}

    def add(self, answer: str, asked: str) -> None:
        kind = answer.partition(":")[0]
        self.kinds[kind] += 1
        wrong = kind.startswith("refused 5") and not kind.startswith(("refused 503", "refused 507"))
        if wrong or UNSEEN in answer or kind == "nothing" or answer.startswith("error: null"):
            self.failures.setdefault(f"{asked}: {answer}"[:300], "")

    def figures(self) -> dict[str, Any]:
        return {
            "requests": sum(self.kinds.values()),
            "answered": dict(sorted(self.kinds.items())),
            "failures": self.failures,
        }


def wrong_types(client: Client, every: int = 1, odd: list[Any] = FEW_ODD) -> dict[str, Any]:
    """Each input of each event with each of the odd values, the others as the page begins; `every`
    n-th of them."""
    told = Told()
    cases = itertools.islice(_cases(client, odd), every // 2, None, every)
    for event, number, value, data in cases:
        asked = f"{event['api_name']} input {number} = {value!r:.40}"
        try:
            told.add(client.call_event(event, data), asked)
        except (httpx.HTTPError, ValueError) as error:
            told.failures[f"{asked}: {type(error).__name__} {error}"[:300]] = ""
    return told.figures()


def _cases(client: Client, odd: list[Any]) -> Iterator[tuple[dict[str, Any], int, Any, list[Any]]]:
    quick = _quick_ids(client)
    for event in client.events():
        inputs = event["inputs"]
        data = [quick.get(i, client.values.get(i)) for i in inputs]
        for number, identity in enumerate(inputs):
            if identity in client.states:
                continue  # no visitor sends these
            for value in odd[:2] if event["api_name"] in COMPARING else odd:
                changed = [*data[:number], value, *data[number + 1 :]]
                yield event, number, value, changed


def _quick_ids(client: Client) -> dict[int, Any]:
    """Values of the widgets of the tabs by which a run is short."""
    found: dict[int, Any] = {}
    for one in client.config["components"]:
        if one["props"].get("label") == "Steps":
            found[one["id"]] = 1
    comparing = client.event("compared")["inputs"]
    values = [i for i in comparing if client.labels[i] == "Values"]
    found |= dict(zip(values, ("0:1:1", "", ""), strict=True))
    found |= {i: "" for i in comparing if client.labels[i] == "Rows"}
    for name in ("variation", "image_text", "structure", "inpaint", "sweep", "compare"):
        fields = dict(zip(client.fields(name), client.event(name)["inputs"], strict=True))
        short = QUICK | SHORT.get(name, {})
        found |= {fields[field]: value for field, value in short.items() if field in fields}
    return found


def files_over_http(client: Client, checks: Checks, count: int, number: int = 0) -> dict[str, Any]:
    """`count` files, as many of each kind: uploaded, and read by what the page reads them with."""
    told = Told()
    for kind, (_, made) in kinds(checks).items():
        _send_all(told, client, kind, made, count // 4, number)
    return told.figures()


def _send_all(
    told: Told,
    client: Client,
    kind: str,
    made: st.SearchStrategy[bytes],
    count: int,
    number: int,
) -> None:
    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(made)
    def one(content: bytes) -> None:
        try:
            told.add(_sent(client, kind, content), f"{kind} of {len(content)} bytes")
        except (httpx.HTTPError, ValueError) as error:
            told.failures[f"{kind}: {type(error).__name__} {error}"[:300]] = content.hex()[:500]

    one()


def _sent(client: Client, kind: str, content: bytes) -> str:
    if kind == "specs":
        event = client.event("estimate")
        data = [client.values.get(i) for i in event["inputs"]]
        data[-1] = content.decode("utf-8", "replace")
        return client.call_event(event, data)
    name = {"pictures": "a.png", "records": "a.png", "bundles": "a.zip"}[kind]
    upload = client.upload(content, name)
    if kind == "pictures":
        return client.call_event(client.event("as_png"), [upload])
    return client.call_event(client.event("restore"), [upload, client.values[_model(client)]])


def _model(client: Client) -> int:
    return int(client.event("restore")["inputs"][1])
