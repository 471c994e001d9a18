"""endpoint.py against a small server in this process."""

import http.server
import json
import threading

import pytest

import endpoint
from endpoint import Endpoint


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the request's last word, `busy` times with 503 first, and asks for the key "secret"."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        chat = self.path == "/v1/chat/completions"
        if self.headers["Authorization"] != "Bearer secret":
            return self.reply(401, {"error": "bad\nkey"})
        if self.server.busy > 0:
            self.server.busy -= 1
            return self.reply(503, {"error": "busy"})
        if self.server.chats_only and not chat:
            return self.reply(404, {"error": "not found"})
        word = (body["messages"][0]["content"] if chat else body["prompt"]).split()[-1]
        choice = {"message": {"content": word}} if chat else {"text": word}
        return self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}})

    def reply(self, status, content):
        text = json.dumps(content, indent=1).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "RETRY_SECONDS", (0, 0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.busy, server.chats_only = [], 0, False
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Tokenizer:
    def decode(self, ids, skip_special_tokens):
        return " ".join(map(str, ids))


@pytest.mark.parametrize("chats_only", [False, True])
def test_text_and_token_ids_are_answered_in_order(server, chats_only):
    server.chats_only, server.busy = chats_only, 2
    client = Endpoint(server.url + "/", "big", "secret", Tokenizer(), threads=3)
    prompts = ["say a", [1, 2, 3], "say b", [4, 5]]
    assert client.generate(prompts, 9, ["\n"]) == ["a", "3", "b", "5"]
    assert (client.prefilled_tokens, client.generated_tokens) == (4 * 7, 4)
    body = server.requests[0][1]
    assert body == {"model": "big", "max_tokens": 9, "temperature": 0, "stop": ["\n"], "prompt": "say a"}
    # twice the server was busy; only the first request tries a server of chats with a completion
    paths = [path for path, _ in server.requests]
    assert paths.count("/v1/completions") == (3 if chats_only else 6) and len(paths) == (7 if chats_only else 6)


def test_errors_are_one_line_and_never_retried_for_nothing(server):
    client = Endpoint(server.url, "big", "wrong")
    with pytest.raises(ValueError, match='/v1/completions: 401 .*"bad.nkey"') as error:
        client.generate(["a"], 1)
    assert "\n" not in str(error.value) and len(server.requests) == 1
    server.busy = 9
    with pytest.raises(ValueError, match="503 .*busy"):
        Endpoint(server.url, "big", "secret").generate(["a"], 1)
    assert len(server.requests) == 1 + 3
    with pytest.raises(ValueError, match="no answer .*refused") as error:
        Endpoint("http://127.0.0.1:9/v1", "big", "secret").generate(["a"], 1)
    assert "\n" not in str(error.value)


def test_plan_sorts_prompts_and_shares_them_among_ranks():
    client = Endpoint("http://127.0.0.1:9/v1", "big", None, threads=2)
    prompts = ["b", "a 2", "c", "a 1", "d"]
    assert client.plan(prompts, 5) == [[3, 1, 0, 2, 4]]
    assert sum(client.plan(prompts, 5, 3), []) == [3, 1, 0, 2, 4]
    assert client.batches([3, 1, 0, 2, 4], prompts, 5) == [[3, 1], [0, 2], [4]]
