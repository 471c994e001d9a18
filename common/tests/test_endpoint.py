"""endpoint.py against a small server in this process."""

import http.server
import json
import threading
from types import SimpleNamespace

import pytest

import endpoint
from endpoint import Endpoint


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the request's last word, `busy` times with 503 first, and asks for the key "secret"."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        chat = self.path == "/v1/chat/completions"
        status, content = 200, {"usage": {"prompt_tokens": 7, "completion_tokens": 1}}
        if self.headers["Authorization"] != "Bearer secret":
            status, content = 401, {"error": "bad\nkey"}
        elif self.server.busy > 0:
            self.server.busy -= 1
            status, content = 503, {"error": "busy"}
        elif self.server.chats_only and not chat:
            status, content = 404, {"error": "not found"}
        else:
            word = (body["messages"][0]["content"] if chat else body["prompt"]).split()[-1]
            content["choices"] = [{"message": {"content": word}} if chat else {"text": word}]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content, indent=1).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "RETRIES", endpoint.RETRIES.new(total=2, backoff_factor=0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.busy, server.chats_only = [], 0, False
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("chats_only", [False, True])
def test_text_and_token_ids_are_answered_in_order(server, chats_only):
    server.chats_only, server.busy = chats_only, 2
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)))
    client = Endpoint(server.url + "/", "big", "secret", tokenizer, threads=3)
    assert client.generate(["say a", [1, 2, 3], "say b", [4, 5]], 9, ["\n"]) == ["a", "3", "b", "5"]
    assert (client.prefilled_tokens, client.generated_tokens) == (4 * 7, 4)
    body = server.requests[0][1]
    assert body == {"model": "big", "max_tokens": 9, "temperature": 0, "stop": ["\n"], "prompt": "say a"}
    # twice the server was busy; only the first request tries a server of chats with a completion
    paths = [path for path, _ in server.requests]
    assert paths.count("/v1/completions") == (3 if chats_only else 6) and len(paths) == (7 if chats_only else 6)


def test_errors_are_one_line_and_a_refusal_is_not_retried(server):
    server.busy = 3
    nowhere = "http://127.0.0.1:9/v1"
    for url, key, message in ((server.url, "wrong", "401"), (server.url, "secret", "503"), (nowhere, "", "no answer")):
        with pytest.raises(ValueError, match=message) as error:
            Endpoint(url, "big", key).generate(["a"], 1)
        assert "\n" not in str(error.value)
    assert len(server.requests) == 1 + 3


def test_plan_and_description():
    client = Endpoint("http://127.0.0.1:9/v1/", "big", None, threads=2)
    prompts = ["say: b", "say: a 2", "say: c", "say: a 1", "say: d"]
    assert client.plan(prompts, 5, 1) == [sum(client.plan(prompts, 5, 3), [])] == [[3, 1, 0, 2, 4]]
    assert client.batches([3, 1, 0, 2, 4], prompts, 5) == [[3, 1], [0, 2], [4]]
    expected = {"model": "big", "method": "hosted", "engine": "openai", "batch_size": 2, "sdpa_kernels": None}
    assert client.describe().items() > (expected | {"checkpoint": "big@http://127.0.0.1:9/v1"}).items()
