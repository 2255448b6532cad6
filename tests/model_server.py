"""Serves a folder of numbered SavedModels without knowing graft: `python -I model_server.py http|kserve FOLDER PORT`.

It loads as TensorFlow Serving does (the highest number, the signature serving_default) and takes its REST API's rows:
`{"instances": [{"b64": …}]}`, or by the input's name, to `{"predictions": [{…}]}`. `http` is a stand-in for that
server, which no package index has; `kserve` hands the same to KServe's own model server, whose V1 protocol this is.
"""

from __future__ import annotations

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import tensorflow as tf


class Served:
    def __init__(self, folder: Path) -> None:
        self.version = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        self.model = tf.saved_model.load(str(folder / str(self.version)))
        self.signature = self.model.signatures["serving_default"]
        (self.taken,) = self.signature.structured_input_signature[1]

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        rows = [row.get(self.taken, row) for row in request["instances"]]
        files = [base64.b64decode(row["b64"], validate=True) for row in rows]
        outputs = {name: value.numpy() for name, value in self.signature(**{self.taken: tf.constant(files)}).items()}
        texts = {name: [part.decode() for part in value] for name, value in outputs.items() if value.dtype == object}
        lists = {name: value.tolist() for name, value in outputs.items()} | texts
        return {"predictions": [{name: value[at] for name, value in lists.items()} for at in range(len(files))]}


def http(served: Served, name: str, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            state = {"version": str(served.version), "state": "AVAILABLE"}
            known = self.path == f"/v1/models/{name}"
            self.answer(200, {"model_version_status": [state]}) if known else self.answer(404, {"error": self.path})

        def do_POST(self) -> None:
            legal = (f"/v1/models/{name}:predict", f"/v1/models/{name}/versions/{served.version}:predict")
            if self.path not in legal:
                return self.answer(404, {"error": f"{self.path} is none of {legal}"})
            try:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer(200, served.predict(request))
            except Exception as error:
                self.answer(400, {"error": str(error)})

        def log_message(self, *_: Any) -> None: ...

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def kserve(served: Served, name: str, port: int) -> None:
    from kserve import Model, ModelServer

    class Predictor(Model):
        def load(self) -> bool:
            self.ready = True
            return True

        def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            return served.predict(payload)

    model = Predictor(name)
    model.load()
    ModelServer(http_port=port, enable_grpc=False, workers=1).start([model])


if __name__ == "__main__":
    kind, folder, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    sys.argv[1:] = []  # KServe reads them, too
    {"http": http, "kserve": kserve}[kind](Served(folder), folder.name, port)
