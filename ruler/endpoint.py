"""A model behind an OpenAI-compatible server (hosted, or vLLM's and SGLang's), asked as the engines are.

Here a prompt is its text, which the server tokenises with its own BOS.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

WAITS = (1, 2, 4, 8, 16)  # seconds before another try when the server is busy or out of reach


class Endpoint:
    """base_url: up to and with /v1.  model: the name that the server knows.  batch: requests at a time.

    prefilled, generated: tokens, as far as the server tells."""

    name, attention, dtype, config, record, window = "openai", None, None, None, None, None

    def __init__(self, base_url: str, model: str, api_key: str | None, batch: int):
        self.base_url, self.model, self.api_key, self.batch = base_url.rstrip("/"), model, api_key, batch
        self.chat = None  # whether the server has only chats; not known yet
        self.prefilled = self.generated = 0
        self.reduced = []

    def plan(self, prompts: list[str], max_new_tokens: int, ranks: int = 1) -> list[list[int]]:
        """As the engines': common beginnings stand together, which a server's prefix cache uses."""
        order = sorted(range(len(prompts)), key=lambda i: prompts[i])
        return [order[len(order) * rank // ranks : len(order) * (rank + 1) // ranks] for rank in range(ranks)]

    def batches(self, order: list[int], prompts: list[str], max_new_tokens: int) -> list[list[int]]:
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]

    def load(self) -> None:
        pass

    def generate(self, prompts: list[str], max_new_tokens: int, stop: list[str] = ()) -> list[str]:
        """The text of each answer, at temperature 0. Raises ValueError, one line, on what waiting does not mend."""
        first = [] if self.chat is not None else [self.ask(prompts[0], max_new_tokens, stop)]
        with ThreadPoolExecutor(self.batch) as pool:
            answers = first + list(pool.map(lambda text: self.ask(text, max_new_tokens, stop), prompts[len(first) :]))
        for answer in answers:
            usage = answer.get("usage") or {}
            self.prefilled += usage.get("prompt_tokens") or 0
            self.generated += usage.get("completion_tokens") or 0
        choices = [answer["choices"][0] for answer in answers]
        return [(choice["message"]["content"] if self.chat else choice["text"]) or "" for choice in choices]

    def ask(self, text: str, max_new_tokens: int, stop: list[str]) -> dict:
        """By /completions, which leaves the text as it is; where a server has only chats, as a user's message."""
        request = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 0}
        request |= {"stop": list(stop)} if stop else {}
        if not self.chat:
            status, answer = self.post("completions", request | {"prompt": text})
            if status == 200:
                self.chat = False
                return answer
            if self.chat is False or status not in (400, 404, 405):
                raise ValueError(f"{self.base_url}/completions: {status} {answer}")
        status, answer = self.post("chat/completions", request | {"messages": [{"role": "user", "content": text}]})
        if status != 200:
            raise ValueError(f"{self.base_url}/chat/completions: {status} {answer}")
        self.chat = True
        return answer

    def post(self, path: str, body: dict) -> tuple[int, dict | str]:
        """(200, the answer) or (another status, the server's words in one line)."""
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        for wait in (*WAITS, None):
            request = urllib.request.Request(f"{self.base_url}/{path}", json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=3600) as response:
                    return 200, json.load(response)
            except urllib.error.HTTPError as reason:
                status, said = reason.code, " ".join(reason.read().decode(errors="replace").split())[:300]
                if status != 429 and status < 500:
                    return status, said
            except (OSError, ValueError, http.client.HTTPException) as reason:
                status, said = 0, f"no answer ({getattr(reason, 'reason', reason)})"
            if wait is not None:
                time.sleep(wait)
        return status, said
