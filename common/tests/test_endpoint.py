"""endpoint.py against a small server in this process."""

import http.server
import json
import threading
from types import SimpleNamespace

import pytest

import endpoint
from endpoint import Endpoint


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the next of the server's `replies` (status, body, headers...), else with the request's last word.

    It asks for the key "secret".
    """

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        status, content, *headers = next(self.server.replies, None) or self.answer(body)
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(content.encode())

    def answer(self, body):
        chat = self.path == "/v1/chat/completions"
        if self.headers["Authorization"] != "Bearer secret":
            return 401, '{"error":\n"bad key"}'
        if self.server.chats_only and not chat:
            return 404, "not found"
        text = body["messages"][0]["content"] if chat else body["prompt"]
        word = text.split()[-1]
        choice = {"message": {"content": word}} if chat else {"text": word}
        return 200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}})

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "RETRIES", endpoint.RETRIES.new(total=2, backoff_factor=0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.replies, server.chats_only = [], iter(()), False
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("chats_only", [False, True])
def test_text_and_token_ids_are_answered_in_order(server, chats_only):
    server.chats_only, server.replies = chats_only, iter([(503, "busy")] * 2)
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)))
    client = Endpoint(server.url + "/", "big", "secret", tokenizer, threads=3)
    assert client.generate(["say a", [1, 2, 3], "say b", [4, 5]], 9, ["\n"]) == ["a", "3", "b", "5"]
    assert (client.prefilled_tokens, client.generated_tokens) == (4 * 7, 4)
    body = {"model": "big", "max_tokens": 9, "temperature": 0, "stop": ["\n"], "prompt": "say a"}
    assert body in [body for _, body in server.requests]
    before = len(server.requests)
    assert client.generate(["say c"], 9) == ["c"]
    assert len(server.requests) == before + 1  # it is known by now which interface the server has


def refusal(url: str, key: str = "secret") -> str:
    """The message about a request that fails."""
    with pytest.raises(ValueError) as error:
        Endpoint(url, "big", key).generate(["a"], 1)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500 and "secret" not in message
    return message


def test_errors_are_one_line_and_a_refusal_is_not_retried(server):
    assert "401" in refusal(server.url, "wrong")
    assert len(server.requests) == 1
    server.replies = iter([(503, "busy")] * 3)
    assert "503" in refusal(server.url)
    assert len(server.requests) == 1 + 3
    assert "no answer" in refusal("http://127.0.0.1:9/v1")
    server.replies = iter([(401, "no secret" + " and no secret" * 100)])
    assert "401" in refusal(server.url)
    server.requests.clear()
    server.replies = iter([(307, "", ("Location", server.url + "/elsewhere"))])
    assert "elsewhere" in refusal(server.url) and len(server.requests) == 1
    for url in ("file:///etc/passwd", "localhost:8000/v1", "http:///v1", "http://user:secret@host/v1"):
        assert "http://localhost:8000/v1" in refusal(url)


CHOICES = ("null", "[]", "{}", '"ab"', "[1]", '[{"text": 1}]', "[{}]")
ODD_REPLIES = ["null", "[]", "<html>", '"a"', "{}", '{"choices": [{"text": "a"}], "usage": [1]}']
ODD_REPLIES += [f'{{"choices": {choices}}}' for choices in CHOICES]


@pytest.mark.parametrize("content", ODD_REPLIES)
def test_an_odd_reply_is_one_line_that_names_the_server(server, content):
    server.replies = iter([(200, content)])
    assert server.url in refusal(server.url)


def test_the_key_is_sent_and_is_in_no_result(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login other password another\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # requests would send it in place of the key
    monkeypatch.setattr("sys.argv", ["call_api.py", "--api_key", "secret", "--api_key=secret"])
    client = Endpoint(server.url, "big", "secret\n")
    assert client.generate(["say a"], 1) == ["a"]
    expected = {"model": "big", "method": "hosted", "engine": "openai", "checkpoint": f"big@{server.url}"}
    assert client.describe().items() > expected.items()
    assert "secret" not in json.dumps([client.describe(), client.settings()])


def test_prompts_are_planned_as_texts():
    client = Endpoint("http://127.0.0.1:9/v1/", "big", None, threads=2)
    prompts = ["say: b", "say: a 2", "say: c", "say: a 1", "say: d"]
    assert client.plan(prompts, 5, 1) == [sum(client.plan(prompts, 5, 3), [])] == [[3, 1, 0, 2, 4]]
    assert client.batches([3, 1, 0, 2, 4], prompts, 5) == [[3, 1], [0, 2], [4]]
